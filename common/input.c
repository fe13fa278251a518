/*
 * Inputs. Element (row, col) of a family is a function of the seed and its index alone, so that every machine and every
 * number of threads runs on the same numbers.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "half.h"

#define PI 3.14159265358979f
#define SWING 320.0f    /* rising and falling rows run from one to the other end of +-SWING: further than exp reaches in fp32 */
#define REAL_SCORES "tests/data/scores.npy"

/* Random bits that depend on (seed, index) alone: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). */
uint64_t random_bits(uint64_t seed, uint64_t index)
{
    uint64_t z = seed * 0xd1342543de82ef95u + (index + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* N(0, 1), by Box and Muller from the two halves of 64 random bits; never larger than 6.7. */
static float normal(uint64_t bits)
{
    float u = ((float)(bits >> 40) + 0.5f) * 0x1p-24f, v = (float)(bits >> 8 & 0xffffff) * 0x1p-24f;
    return sqrtf(-2 * logf(u)) * cosf(2 * PI * v);
}

static float uniform(uint64_t bits)
{
    return (float)(bits >> 40) * 0x1p-23f - 1;
}

/* -SWING at the first column, +SWING at the last, with a little noise so that no two rows are alike. */
static float rising(uint64_t bits, int64_t col, int64_t cols)
{
    float at = cols > 1 ? (float)((double)col / (double)(cols - 1)) : 1;
    return SWING * (2 * at - 1) + 0.5f * uniform(bits);
}

/* One place for all families, so that the list and what it means cannot differ. */
static const char *const families[] = {
    "normal", "uniform", "rising", "falling", "adversarial", "equal", "peak", "shifted", "far", "masked", "empty", "nan", "real",
};
enum family { NORMAL, UNIFORM, RISING, FALLING, ADVERSARIAL, EQUAL, PEAK, SHIFTED, FAR, MASKED, EMPTY, NOT_A_NUMBER, REAL };

const char *const input_families =
    "normal, uniform, rising, falling, adversarial, equal, peak, shifted, far, masked, empty, nan, real";

static int family_of(const char *name)
{
    for (int f = 0; f < (int)(sizeof families / sizeof families[0]); f++)
        if (strcmp(name, families[f]) == 0)
            return f;
    return -1;
}

bool input_is_family(const char *name)
{
    return family_of(name) >= 0;
}

static float value(enum family family, uint64_t seed, int64_t row, int64_t col, int64_t cols)
{
    uint64_t bits = random_bits(seed, (uint64_t)(row * cols + col));
    switch (family) {
    case UNIFORM: return uniform(bits);
    case RISING:  return rising(bits, col, cols);
    case FALLING: return rising(bits, cols - 1 - col, cols);
    case ADVERSARIAL: /* what tells a safe softmax from an unsafe one, a row of each in turn */
        switch (row % 4) {
        case 0:  return rising(bits, col, cols);
        case 1:  return rising(bits, cols - 1 - col, cols);
        case 2:  return normal(bits) - SWING; /* a maximum that starts at 0 stays there */
        default: return normal(bits);
        }
    case EQUAL:   return 1.5f;
    case PEAK:    return (uint64_t)col == random_bits(~seed, (uint64_t)row) % (uint64_t)cols ? 1e4f : normal(bits);
    case SHIFTED: return normal(bits) + 100; /* exp(100) does not fit a float */
    case FAR:     return normal(bits) - 1e4f;
    case MASKED:  return bits % 4 == 0 ? -INFINITY : normal(bits);
    case EMPTY:   return row % 2 == 0 ? -INFINITY : normal(bits); /* every other row has nothing in it */
    case NOT_A_NUMBER: return row % 2 == 0 && col == cols / 2 ? NAN : normal(bits);
    default:      return normal(bits);
    }
}

size_t dtype_bytes(enum dtype dtype)
{
    return dtype == FP64 ? 8 : dtype == FP32 ? 4 : 2;
}

const char *dtype_name(enum dtype dtype)
{
    static const char *const names[] = { [FP32] = "fp32", [FP16] = "fp16", [BF16] = "bf16", [FP64] = "fp64" };
    return names[dtype];
}

void element_set(void *x, enum dtype dtype, int64_t at, float value)
{
    if (dtype == FP16)
        ((fp16 *)x)[at] = float_to_fp16(value);
    else if (dtype == BF16)
        ((bf16 *)x)[at] = float_to_bf16(value);
    else
        ((float *)x)[at] = value;
}

static void fill_real(void *x, enum dtype dtype, int64_t rows, int64_t cols)
{
    int64_t real_rows, real_cols;
    struct npy scores = input_matrix(REAL_SCORES, &real_rows, &real_cols);
    if (cols != real_cols)
        usage_error("--cols %lld: --input real has rows of %lld; leave --cols out", (long long)cols, (long long)real_cols);
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++)
        for (int64_t col = 0; col < cols; col++)
            element_set(x, dtype, row * cols + col, (float)element(scores.data, scores.dtype, row % real_rows * cols + col));
    free(scores.data);
}

void input_fill(void *x, enum dtype dtype, int64_t rows, int64_t cols, const char *family, uint64_t seed)
{
    enum family f = (enum family)family_of(family);
    if (f == REAL) {
        fill_real(x, dtype, rows, cols);
        return;
    }
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++)
        for (int64_t col = 0; col < cols; col++)
            element_set(x, dtype, row * cols + col, value(f, seed, row, col, cols));
}

struct npy input_matrix(const char *path, int64_t *rows, int64_t *cols)
{
    struct npy file;
    char why[512];
    if (npy_read(path, &file, why, sizeof why))
        fatal("%s", why);
    *rows = 1;
    for (int d = 0; d < file.dims - 1; d++)
        *rows *= file.shape[d];
    *cols = file.dims > 0 ? file.shape[file.dims - 1] : 1;
    if (*rows * *cols == 0)
        fatal("%s: it has no elements; every size must be at least 1", path);
    return file;
}

struct buffer input_tensor(struct options *o)
{
    struct npy file = { 0 };
    if (o->x_path) {
        file = input_matrix(o->x_path, &o->rows, &o->cols);
        o->input = "file";
        o->dims = file.dims;
        memcpy(o->shape, file.shape, sizeof o->shape);
    }
    struct buffer x = buffer_new((size_t)(o->rows * o->cols) * dtype_bytes(o->dtype), false);
    if (!o->x_path)
        input_fill(x.data, o->dtype, o->rows, o->cols, o->input, o->seed);
    for (int64_t i = 0; o->x_path && i < o->rows * o->cols; i++)
        element_set(x.data, o->dtype, i, (float)element(file.data, file.dtype, i));
    free(file.data);
    return x;
}

void output_write(const struct options *o, const void *y)
{
    int64_t matrix[] = { o->rows, o->cols };
    char why[512];
    if (npy_write(o->out_path, y, o->dtype, o->dims ? o->dims : 2, o->dims ? o->shape : matrix, why, sizeof why))
        fatal("%s", why);
}

int64_t input_real_cols(void)
{
    int64_t rows, cols;
    free(input_matrix(REAL_SCORES, &rows, &cols).data);
    return cols;
}

/* The softmaxes of real models: one layer's attention scores (heads x queries rows, keys columns), and vocabulary logits. */
const struct shape softmax_shapes[] = {
    { "gpt2-scores", 12 * 1024, 1024 },          /* GPT-2 small: 12 heads, 1024 tokens */
    { "gpt2-logits", 1024, 50257 },              /* 1024 tokens, vocabulary of 50257 */
    { "bert-scores", 8 * 12 * 512, 512 },        /* BERT base: batch of 8, 12 heads, 512 tokens */
    { "llama3-8b-scores", 32 * 512, 8192 },      /* Llama 3 8B: 32 heads, 512 queries of a prompt against 8192 keys */
    { "llama3-8b-logits", 1024, 128256 },        /* 1024 tokens, vocabulary of 128256 */
    { "llama3.1-8b-scores", 32 * 32, 131072 },   /* 32 heads, 32 queries against the whole context of 128 Ki */
    { "one-row", 1, 16 << 20 },                  /* no model's: the longest row of the course, alone */
    { NULL, 0, 0 },
};

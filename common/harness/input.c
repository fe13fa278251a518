/*
 * Inputs. Element (row, col) of a family is a function of the seed and its index alone, so that every machine and every
 * number of threads runs on the same numbers.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "half.h"

#define PI 3.14159265358979f
#define SWING 320.0f    /* rising and falling rows run from one to the other end of +-SWING: further than exp reaches in fp32 */
#define REAL_SCORES "tests/data/scores.npy"
#define REAL_Q "tests/data/q.npy"
#define REAL_K "tests/data/k.npy"
#define REAL_V "tests/data/v.npy"

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
    "large", "plateau", "deep", "drift", "slopes", "wide",
};
enum family {
    NORMAL, UNIFORM, RISING, FALLING, ADVERSARIAL, EQUAL, PEAK, SHIFTED, FAR, MASKED, EMPTY, NOT_A_NUMBER, REAL,
    LARGE, PLATEAU, DEEP, DRIFT, SLOPES, WIDE_VALUES,
};

const char *const input_families =
    "normal, uniform, rising, falling, adversarial, equal, peak, shifted, far, deep, drift, masked, empty, nan, real";

const char *const attention_families =
    "normal, uniform, rising, falling, adversarial, equal, peak, large, wide, deep, slopes, plateau, masked, nan, real";

static int family_of(const char *name)
{
    for (int f = 0; f < (int)(sizeof families / sizeof families[0]); f++)
        if (strcmp(name, families[f]) == 0)
            return f;
    return -1;
}

/* Whether `name` is a word of a list such as "normal, uniform, real". */
static bool listed(const char *name, const char *list)
{
    size_t length = strcspn(name, ", ");
    for (const char *at = list; length && !name[length] && (at = strstr(at, name)); at += length)
        if ((at == list || at[-1] == ' ') && (at[length] == ',' || at[length] == '\0'))
            return true;
    return false;
}

bool input_is_family(const char *name, bool attention)
{
    return listed(name, attention ? attention_families : input_families);
}

static float at_least(float x, float low)
{
    return x < low ? low : x;
}

/* Finite stand-ins for -infinity are larger than some of these: -5e4, -1e30. largest: of the type. */
static float deep(int64_t row, int64_t col, float largest, uint64_t bits)
{
    switch (row % 4) {
    case 0:  return -largest;
    case 1:  return -6e4f - (float)(col % 7) * 32;
    case 2:  return at_least(-1e5f - (float)(col % 5), -largest);
    default: return at_least(-1e35f * (1.5f + uniform(bits)), -largest);
    }
}

static float value(enum family family, uint64_t seed, int64_t row, int64_t col, int64_t cols, float largest)
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
    case PEAK:    return (uint64_t)col == ((uint64_t)row + random_bits(~seed, 0)) % (uint64_t)cols ? 1e4f : normal(bits);
    case SHIFTED: return normal(bits) + 100; /* exp(100) does not fit a float */
    case FAR:     return normal(bits) - 1e4f;
    case DEEP:    return deep(row, col, largest, bits);
    case DRIFT:   return col == cols - 1 ? 0 : -1.25f - 0.125f * (float)(row % 8); /* all additions to a sum round the same way */
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

void element_set(void *x, enum dtype dtype, int64_t at, double value)
{
    if (dtype == FP16)
        ((fp16 *)x)[at] = double_to_fp16(value);
    else if (dtype == BF16)
        ((bf16 *)x)[at] = double_to_bf16(value);
    else
        ((float *)x)[at] = (float)value;
}

static void fill_real(void *x, enum dtype dtype, int64_t rows, int64_t cols)
{
    int64_t real_rows, real_cols;
    struct npy scores = input_matrix(REAL_SCORES, &real_rows, &real_cols);
    if (cols != real_cols)
        fatal("%s: it has rows of %lld, not of %lld", REAL_SCORES, (long long)real_cols, (long long)cols);
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++)
        for (int64_t col = 0; col < cols; col++)
            element_set(x, dtype, row * cols + col, element(scores.data, scores.dtype, row % real_rows * cols + col));
    free(scores.data);
}

void input_fill(void *x, enum dtype dtype, int64_t rows, int64_t cols, const char *family, uint64_t seed)
{
    enum family f = (enum family)family_of(family);
    if (f == REAL) {
        fill_real(x, dtype, rows, cols);
        return;
    }
    float largest = dtype == FP16 ? 65504 : dtype == BF16 ? 0x1.fep127f : FLT_MAX;
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++)
        for (int64_t col = 0; col < cols; col++)
            element_set(x, dtype, row * cols + col, value(f, seed, row, col, cols, largest));
}

/* ---- files */

/* (rows, cols) of a file: the last axis is cols, all others are rows. */
static void matrix_sizes(const struct npy *file, int64_t *rows, int64_t *cols)
{
    *rows = 1;
    for (int d = 0; d < file->dims - 1; d++)
        *rows *= file->shape[d];
    *cols = file->dims > 0 ? file->shape[file->dims - 1] : 1;
}

struct npy input_matrix(const char *path, int64_t *rows, int64_t *cols)
{
    struct npy file;
    char why[512];
    if (npy_read(path, &file, why, sizeof why))
        fatal("%s", why);
    matrix_sizes(&file, rows, cols);
    return file;
}

static struct npy header_of(const char *path, double *largest)
{
    struct npy file;
    char why[512];
    if (npy_read_header(path, &file, why, sizeof why))
        fatal("%s", why);
    double bytes = (double)dtype_bytes(file.dtype);
    for (int d = 0; d < file.dims; d++)
        bytes *= (double)file.shape[d];
    *largest = fmax(*largest, bytes);
    return file;
}

/* Where the element lies that is number `at` in memory: "[2, 0, 17]". */
static const char *index_text(const struct npy *file, int64_t at)
{
    static char text[32 * NPY_MAX_DIMS];
    int64_t index[NPY_MAX_DIMS];
    for (int d = file->dims - 1; d >= 0; d--) {
        index[d] = at % file->shape[d];
        at /= file->shape[d];
    }
    size_t n = 0;
    for (int d = 0; d < file->dims; d++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%lld", d ? ", " : "[", (long long)index[d]);
    snprintf(text + n, sizeof text - n, file->dims ? "]" : "[]");
    return text;
}

struct buffer input_file(const char *option, const char *path, enum dtype dtype, int64_t count)
{
    struct npy file;
    char why[512];
    if (npy_read(path, &file, why, sizeof why))
        fatal("%s", why);
    int64_t held = 1, lost = 0, first = INT64_MAX;
    for (int d = 0; d < file.dims; d++)
        held *= file.shape[d];
    if (held != count)
        fatal("%s: it was changed while this program ran", path);
    struct buffer b = buffer_new((size_t)count * dtype_bytes(dtype), &cpu_device);
#pragma omp parallel for reduction(+ : lost) reduction(min : first)
    for (int64_t i = 0; i < count; i++) {
        double x = element(file.data, file.dtype, i);
        element_set(b.data, dtype, i, x);
        if (isfinite(x) && isinf(element(b.data, dtype, i))) {
            lost++;
            first = i < first ? i : first;
        }
    }
    if (lost)
        usage_error("--%s '%s': %lld of its %lld numbers %s too large for %s, the first is %.9g at %s; choose another --dtype, "
                    "or smaller numbers",
                    option, path, (long long)lost, (long long)count, lost == 1 ? "is" : "are", dtype_name(dtype),
                    element(file.data, file.dtype, first), index_text(&file, first));
    free(file.data);
    return b;
}

void input_require_finite(const char *option, const char *path, const struct buffer *b, enum dtype dtype)
{
    double bytes = 0;
    int64_t count = (int64_t)(b->bytes / dtype_bytes(dtype)), at = 0;
    while (at < count && isfinite(element(b->data, dtype, at)))
        at++;
    if (at < count) {
        struct npy file = header_of(path, &bytes);
        usage_error("--%s '%s': %g at %s; a gradient is asked for finite numbers alone", option, path,
                    element(b->data, dtype, at), index_text(&file, at));
    }
}

struct npy input_whole(const char *option, const char *path)
{
    struct npy file;
    char why[512];
    if (npy_read(path, &file, why, sizeof why))
        fatal("%s", why);
    int64_t count = 1;
    for (int d = 0; d < file.dims; d++)
        count *= file.shape[d];
    for (int64_t i = 0; i < count; i++) {
        double x = element(file.data, file.dtype, i);
        if (!(x >= 0 && x <= INT32_MAX && x == floor(x)))
            usage_error("--%s '%s': %.9g at %s; whole numbers from 0 to %d are allowed", option, path, x, index_text(&file, i),
                        INT32_MAX);
    }
    return file;
}

static void attention_sizes(struct options *o)
{
    const struct npy q = header_of(o->q_path, &o->file_bytes), k = header_of(o->k_path, &o->file_bytes),
                     v = header_of(o->v_path, &o->file_bytes);
    const struct npy *all[] = { &q, &k, &v };
    const char *paths[] = { o->q_path, o->k_path, o->v_path };
    for (int i = 0; i < 3; i++)
        if (all[i]->dims != 4)
            fatal("%s: it has %d axes; 4 are needed, (batch, heads, tokens, dim)", paths[i], all[i]->dims);
    if (memcmp(k.shape, v.shape, sizeof k.shape))
        fatal("%s: its shape is not that of %s", o->v_path, o->k_path);
    if (q.shape[0] != k.shape[0] || q.shape[3] != k.shape[3] || q.shape[1] % k.shape[1])
        fatal("%s: (%lld, %lld, %lld, %lld) does not fit Q's (%lld, %lld, %lld, %lld): batch and dim must be the same, and Q's "
              "heads a multiple",
              o->k_path, (long long)k.shape[0], (long long)k.shape[1], (long long)k.shape[2], (long long)k.shape[3],
              (long long)q.shape[0], (long long)q.shape[1], (long long)q.shape[2], (long long)q.shape[3]);
    o->attention = (struct attention){ q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3],
                                       o->attention.causal, o->attention.scale };
}

void input_sizes(struct options *o)
{
    bool real = !o->x_path && !o->q_path && strcmp(o->input, "real") == 0;
    if (real && o->is_attention)
        o->q_path = REAL_Q, o->k_path = REAL_K, o->v_path = REAL_V;
    else if (o->x_path || o->q_path)
        o->input = "file";
    if (o->q_path)
        attention_sizes(o);
    if (o->x_path) {
        struct npy x = header_of(o->x_path, &o->file_bytes);
        matrix_sizes(&x, &o->rows, &o->cols);
        o->dims = x.dims;
        memcpy(o->shape, x.shape, sizeof o->shape);
    }
}

struct buffer input_tensor(const struct options *o)
{
    if (o->x_path)
        return input_file("x", o->x_path, o->dtype, o->rows * o->cols);
    struct buffer x = buffer_new((size_t)(o->rows * o->cols) * dtype_bytes(o->dtype), &cpu_device);
    input_fill(x.data, o->dtype, o->rows, o->cols, o->input, o->seed);
    return x;
}

void output_write(const struct options *o, const void *y)
{
    int64_t matrix[] = { o->rows, o->cols };
    char why[512];
    if (npy_write(o->out_path, y, o->dtype, o->x_path ? o->dims : 2, o->x_path ? o->shape : matrix, why, sizeof why))
        fatal("%s", why);
}

/* Axes of y, or of O. Returns how many. */
static int shape_of_results(const struct options *o, int64_t shape[NPY_MAX_DIMS])
{
    const struct attention *p = &o->attention;
    if (!o->is_attention && o->x_path)
        return memcpy(shape, o->shape, sizeof o->shape), o->dims;
    if (!o->is_attention)
        return shape[0] = o->rows, shape[1] = o->cols, 2;
    return shape[0] = p->batch, shape[1] = p->heads, shape[2] = p->seq_q, shape[3] = p->dim, 4;
}

void input_results_sizes(struct options *o)
{
    const char *const paths[] = { o->change_path, o->o_path, o->o_path ? o->lse_path : NULL, o->dlse_path };
    int64_t shape[NPY_MAX_DIMS];
    for (int i = 0; i < 4; i++) {
        const char *path = paths[i];
        int dims = shape_of_results(o, shape) - (i >= 2); /* lse has no dims */
        struct npy file = path ? header_of(path, &o->file_bytes) : (struct npy){ 0 };
        if (path && (file.dims != dims || memcmp(file.shape, shape, (size_t)dims * sizeof *shape)))
            fatal("%s: its shape is not that of %s", path, i >= 2 ? "lse: (batch, heads, queries)" :
                  o->is_attention ? "O: (batch, heads, queries, dim)" : "y");
    }
}

struct buffer input_change(const struct options *o, uint64_t seed)
{
    const struct attention *p = &o->attention;
    int64_t rows = o->is_attention ? p->batch * p->heads * p->seq_q : o->rows, cols = o->is_attention ? p->dim : o->cols;
    if (o->change_path)
        return input_file(o->is_attention ? "do" : "dy", o->change_path, o->dtype, rows * cols);
    struct buffer b = buffer_new((size_t)(rows * cols) * dtype_bytes(o->dtype), &cpu_device);
    input_fill(b.data, o->dtype, rows, cols, "normal", seed);
    return b;
}

int64_t input_real_cols(void)
{
    int64_t rows, cols;
    double bytes = 0;
    struct npy scores = header_of(REAL_SCORES, &bytes);
    matrix_sizes(&scores, &rows, &cols);
    return cols;
}

/* The softmaxes of real models: one layer's attention scores (heads x queries rows, keys columns), and vocabulary logits. */
const struct named_shape softmax_shapes[] = {
    { .name = "gpt2-scores", .rows = 12 * 1024, .cols = 1024 },          /* GPT-2 small: 12 heads, 1024 tokens */
    { .name = "gpt2-logits", .rows = 1024, .cols = 50257 },              /* 1024 tokens, vocabulary of 50257 */
    { .name = "bert-scores", .rows = 8 * 12 * 512, .cols = 512 },        /* BERT base: batch of 8, 12 heads, 512 tokens */
    /* Llama 3 8B: 32 heads, 512 queries of a prompt against 8192 keys */
    { .name = "llama3-8b-scores", .rows = 32 * 512, .cols = 8192 },
    { .name = "llama3-8b-logits", .rows = 1024, .cols = 128256 },        /* 1024 tokens, vocabulary of 128256 */
    /* 32 heads, 32 queries against the whole context of 128 Ki */
    { .name = "llama3.1-8b-scores", .rows = 32 * 32, .cols = 131072 },
    { .name = "one-row", .rows = 1, .cols = 16 << 20 },                  /* no model's: the longest row of the course, alone */
    { .name = NULL },
};

/* Attention as real models run it: { batch, heads, kv_heads, seq_q, seq_k, dim, causal, scale (0: 1 / sqrt(dim)) }. */
const struct named_shape attention_shapes[] = {
    { .name = "gpt2", .attention = { 1, 12, 12, 1024, 1024, 64, true, 0 } },             /* GPT-2 small, its whole context */
    { .name = "bert", .attention = { 8, 12, 12, 512, 512, 64, false, 0 } },              /* BERT base, a batch of 8 */
    /* ViT-L/16 at 384 pixels: a ragged length */
    { .name = "vit-l", .attention = { 8, 16, 16, 577, 577, 64, false, 0 } },
    { .name = "whisper-cross", .attention = { 1, 20, 20, 448, 1500, 64, false, 0 } },    /* Whisper large: text looks at sound */
    { .name = "llama3-8b", .attention = { 1, 32, 8, 8192, 8192, 128, true, 0 } },        /* Llama 3 8B, its whole context */
    { .name = "llama3-8b-turn", .attention = { 1, 32, 8, 512, 8192, 128, true, 0 } },    /* 512 new tokens after 7680 old ones */
    { .name = "llama3-8b-token", .attention = { 1, 32, 8, 1, 8192, 128, true, 0 } },     /* one new token */
    { .name = "llama3-70b-token", .attention = { 1, 64, 8, 1, 8192, 128, true, 0 } },   /* Llama 3 70B: groups of 8 */
    { .name = NULL },
};

/* ---- Q, K, V */

#define HIGH 64.0f  /* a query's first coordinates; times a key's, 40, and 1/8: scores reach +-320 at dim 64, as SWING has it */
#define WIDE 40.0f
#define DEEP_AT 640.0f   /* a query's first coordinate is -DEEP_AT and a key's DEEP_AT: scores lie around -51200 */
#define SLOPE 160.0f     /* the first coordinates of queries go from -SLOPE to SLOPE, */
#define SLOPE_KEYS 8.0f  /* and those of keys from -SLOPE_KEYS to SLOPE_KEYS: scores fall and rise by up to 320 */
/* The last keys of "plateau" are below the others by 2^9.5, or 2^8.5 at heads of 128 (of 2, and e^score is meant), so that a
   lane's 16 or 32 weights in step 32 add up to 2^13.5: in its bounds, by less than a factor of 2. */
#define PLATEAU_KEYS 128

/*
 * What steers a query: `at` where the scale is 1/8, and otherwise so much that the scores are the same. (With a scale of 0 they
 * are all 0.) Refused where the type does not hold it, or fp32 a score before it is scaled.
 */
static float steered_by(float at, const struct attention *p, enum dtype dtype, enum family family)
{
    double high = (double)at * 0.125 / (p->scale != 0 ? (double)p->scale : 1);
    double most = dtype == FP16 ? 65504 : FLT_MAX / (2 * DEEP_AT);
    if (fabs(high) > most)
        usage_error("--scale %g: for --input %s queries would have to reach %.3g, and %.3g is the most in %s; "
                    "choose a larger one", (double)p->scale, families[family], fabs(high), most, dtype_name(dtype));
    return (float)high;
}

/* The coordinate of a query that its kind is steered by; the others are left as they are. */
static float query_value(enum family family, int64_t query, int64_t i, float plain, float high)
{
    static const enum family turns[] = { RISING, FALLING, FAR, NORMAL };
    if (family == ADVERSARIAL)
        family = turns[query % 4];
    switch (family) {
    case RISING:  return i == 0 ? high : i == 1 ? 0 : 0.1f * plain;
    case FALLING: return i == 0 ? -high : i == 1 ? 0 : 0.1f * plain;
    case FAR:     return i == 0 ? 0 : i == 1 ? -high : 0.1f * plain; /* all scores lie around -320 */
    case NORMAL:  return i < 2 ? 0 : plain;
    case PLATEAU: return i == 0 ? high : 0;
    default:      return plain;
    }
}

/*
 * Values from 1e-30 to 1e30 over the columns, in fp16 from 1e-4 to 6e4: sums have no room to spare. All values of a column are of
 * one size, so that the bound is, too; none is small, so that nothing cancels. plain: from -1 to 1.
 */
static float wide_value(const struct attention *p, enum dtype dtype, int64_t i, float plain)
{
    double place = p->dim > 1 ? (double)i / (double)(p->dim - 1) : 1;
    double size = dtype == FP16 ? 1e-4 * pow(6e8, place) : 1e-30 * pow(1e60, place);
    return (float)(size * (double)(plain < 0 ? plain - 1 : plain + 1) / 2);
}

static float query_of_family(enum family family, const struct attention *p, int64_t row, int64_t i, float plain, float high)
{
    float place = p->seq_q > 1 ? 2 * (float)(row % p->seq_q) / (float)(p->seq_q - 1) - 1 : 1;
    switch (family) {
    case LARGE:        return 5 * plain;
    case MASKED:       return i == 0 ? 0.5f : plain;
    case DEEP:         return i == 0 ? -high : plain;
    case SLOPES:       return i == 0 ? high * place : 0.1f * plain; /* some outgrow an old maximum a little with every tile */
    case NOT_A_NUMBER: return row % 7 == 0 && i == row % p->dim ? NAN : plain;
    default:           return high != 0 ? query_value(family, row % p->seq_q, i, plain, high) : plain;
    }
}

/* steered: scores rise or fall because a key's first coordinate rises; its second moves all scores of a query alike. */
static float key_of_family(enum family family, const struct attention *p, int64_t key, int64_t i, float plain, bool steered)
{
    float place = p->seq_k > 1 ? 2 * (float)key / (float)(p->seq_k - 1) - 1 : 1;
    if (family == PLATEAU && i == 0) /* times high and the scale, 8 in all */
        return key >= p->seq_k - PLATEAU_KEYS ? 0 : (p->dim > 64 ? 8.5f : 9.5f) * 0.693147f / 8;
    if (steered && i < 2)
        return i == 0 ? WIDE * place : WIDE;
    switch (family) {
    case LARGE:  return 3 * plain;
    case MASKED: return i == 0 && key % 3 == 0 ? -INFINITY : plain; /* scores of -inf: with a causal mask all that query 0 has */
    case DEEP:   return i == 0 ? DEEP_AT : plain;
    case SLOPES: return i == 0 ? SLOPE_KEYS * place : plain;
    case PEAK:   return key == p->seq_k / 3 ? 20 * plain : plain; /* one key that dominates half of the queries */
    default:     return plain;
    }
}

/* even: from -1 to 1. All values of "deep" are positive, so that zeros are wrong although fp32 hardly knows the weights. */
static float value_of_family(enum family family, const struct attention *p, enum dtype dtype, int64_t i, float plain, float even)
{
    bool wide = family == SLOPES || family == WIDE_VALUES;
    return wide ? wide_value(p, dtype, i, even) : family == DEEP ? 3 + even : family == LARGE ? 3 * plain : plain;
}

static float plain_number(enum family family, uint64_t bits)
{
    return family == UNIFORM ? uniform(bits) : normal(bits);
}

static void fill_qkv(struct qkv *t, enum dtype dtype, const struct attention *p, enum family family, uint64_t seed)
{
    bool steered = family == RISING || family == FALLING || family == ADVERSARIAL || family == PLATEAU;
    float at = family == DEEP ? DEEP_AT : family == SLOPES ? SLOPE : steered ? HIGH : 0, high = steered_by(at, p, dtype, family);
#pragma omp parallel for
    for (int64_t row = 0; row < p->batch * p->heads * p->seq_q; row++)
        for (int64_t i = 0; i < p->dim; i++) {
            float plain = plain_number(family, random_bits(seed, (uint64_t)(row * p->dim + i)));
            element_set(t->q.data, dtype, row * p->dim + i, query_of_family(family, p, row, i, plain, high));
        }
#pragma omp parallel for
    for (int64_t row = 0; row < p->batch * p->kv_heads * p->seq_k; row++)
        for (int64_t i = 0; i < p->dim; i++) {
            int64_t at = row * p->dim + i, key_at = family == EQUAL ? i : at;
            uint64_t bits = random_bits(seed + 2, (uint64_t)at);
            float k = plain_number(family, random_bits(seed + 1, (uint64_t)key_at)), v = plain_number(family, bits);
            element_set(t->k.data, dtype, at, key_of_family(family, p, row % p->seq_k, i, k, steered));
            element_set(t->v.data, dtype, at, value_of_family(family, p, dtype, i, v, uniform(bits)));
        }
}

struct qkv input_qkv(const struct options *o)
{
    const struct attention *p = &o->attention;
    int64_t queries = p->batch * p->heads * p->seq_q * p->dim, keys = p->batch * p->kv_heads * p->seq_k * p->dim;
    if (o->q_path)
        return (struct qkv){ input_file("q", o->q_path, o->dtype, queries), input_file("k", o->k_path, o->dtype, keys),
                             input_file("v", o->v_path, o->dtype, keys) };
    size_t size = dtype_bytes(o->dtype);
    struct qkv t = { buffer_new((size_t)queries * size, &cpu_device), buffer_new((size_t)keys * size, &cpu_device),
                     buffer_new((size_t)keys * size, &cpu_device) };
    fill_qkv(&t, o->dtype, p, (enum family)family_of(o->input), o->seed);
    return t;
}

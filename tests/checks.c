/* What goes in, and the verdict on what comes out. */
#include "checks.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mutants/mutants.h"

#define SMALL_ELEMENTS 10000 /* see TESTS_SMALL in checks.h */

/* ---- numbers that no family of common/harness/input.c has */

static float noise(int64_t row, int64_t col, int64_t cols)
{
    return (float)(random_bits(11, (uint64_t)(row * cols + col)) >> 40) * 0x1p-23f - 1; /* from -1 to 1 */
}

static float huge(int64_t row, int64_t col, int64_t cols, float largest)
{
    switch (row % 5) {
    case 0: return col == cols / 2 ? largest : noise(row, col, cols);
    case 1: return col == cols / 3 ? -largest : noise(row, col, cols);
    case 2: return largest;
    case 3: return col % 2 ? largest : -largest;
    default: return col == cols - 1 ? largest : -largest;
    }
}

/* Where tiles, vectors, warps and blocks begin and end. Row r uses the r-th. */
static int64_t place(int64_t row, int64_t cols)
{
    static const int64_t places[] = { 0, 1, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 511, 512, 1023, 1024 };
    enum { PLACES = sizeof places / sizeof places[0] };
    int64_t i = row % (PLACES + 4);
    int64_t at = i < PLACES        ? places[i]
                 : i == PLACES     ? cols - 1
                 : i == PLACES + 1 ? cols - 2
                                   : cols / 16 * 16 - (i == PLACES + 2);
    return at < 0 ? 0 : at < cols ? at : cols - 1;
}

/* The others are close behind, so that all count, or so far that exp(maximum - others) is infinite. */
static float maximum_anywhere(int64_t row, int64_t col, int64_t cols, float largest)
{
    (void)largest;
    return col == place(row, cols) ? row % 2 ? 120 : 400 : 116 + noise(row, col, cols);
}

static float masked_start(int64_t row, int64_t col, int64_t cols, float largest)
{
    (void)largest;
    return col < place(row, cols) ? -INFINITY : noise(row, col, cols);
}

static float masked_end(int64_t row, int64_t col, int64_t cols, float largest)
{
    (void)largest;
    return col > place(row, cols) ? -INFINITY : noise(row, col, cols);
}

/* Every other row has one somewhere. */
static float nan_anywhere(int64_t row, int64_t col, int64_t cols, float largest)
{
    (void)largest;
    return row % 2 == 0 && col == place(row, cols) ? NAN : noise(row, col, cols);
}

static float infinity_anywhere(int64_t row, int64_t col, int64_t cols, float largest)
{
    (void)largest;
    return row % 2 == 0 && col == place(row, cols) ? INFINITY : noise(row, col, cols);
}

static float denormal(int64_t row, int64_t col, int64_t cols, float largest)
{
    float unit = largest > 1e30f ? 0x1p-133f : 0x1p-24f; /* the smallest of bf16, and of fp16 */
    return (noise(row, col, cols) > 0 ? 3 : 100) * unit;
}

/* ---- shapes: rows, cols, and the offsets of x and y, which are 0 where they are left out */

static const int64_t grid[][4] = {
#define ROWS(n) \
    { n, 1 }, { n, 2 }, { n, 3 }, { n, 15 }, { n, 16 }, { n, 17 }, { n, 31 }, { n, 33 }, { n, 64 }, { n, 127 }, { n, 128 }, \
    { n, 129 }, { n, 255 }, { n, 1000 }, { n, 1023 }, { n, 1024 }, { n, 1025 }
    ROWS(1), ROWS(2), ROWS(3), ROWS(7), ROWS(64), ROWS(1031),
#undef ROWS
    { 1, 4096 },  { 2, 4096 },  { 3, 4096 },  { 7, 4096 },   { 64, 4096 },  { 1, 8193 },   { 2, 8193 },   { 3, 8193 },
    { 7, 8193 },  { 64, 8193 }, { 1, 32768 }, { 2, 32768 },  { 3, 32768 },  { 7, 32768 },  { 1, 131073 }, { 2, 131073 },
    { 3, 131073 }, { 1, 1048577 },
};

static const int64_t ordinary[][4] = { { 64, 128 }, { 7, 1000 }, { 3, 4096 } };
static const int64_t varied[][4] = {
    { 1, 1 }, { 24, 2 }, { 24, 17 }, { 24, 33 }, { 48, 256 }, { 48, 1000 }, { 24, 1025 }, { 24, 4099 },
};
/* x and y alike. */
static const int64_t offsets[][4] = {
    { 7, 33, 1, 1 },   { 7, 33, 3, 3 },   { 5, 128, 1, 1 },  { 5, 128, 2, 2 },    { 3, 1000, 1, 1 },   { 3, 1000, 3, 3 },
    { 3, 4096, 1, 1 }, { 3, 8193, 1, 1 }, { 3, 8193, 2, 2 }, { 2, 131072, 1, 1 }, { 1, 1048576, 1, 1 },
};
/* Each for itself, which GPU functions need not take (common/gpu.cuh, struct row_layout). */
static const int64_t unlike_offsets[][4] = {
    { 7, 33, 1, 0 },   { 7, 33, 0, 1 },   { 5, 128, 1, 0 },  { 5, 128, 0, 1 },   { 3, 1000, 1, 0 }, { 3, 1000, 3, 1 },
    { 3, 4096, 0, 1 }, { 3, 4096, 1, 0 }, { 3, 8193, 1, 2 }, { 2, 32768, 1, 0 }, { 2, 32768, 0, 1 },
};
static const int64_t long_rows[][4] = { { 2, 131073 }, { 1, 1048577 } };

#define FAMILY(name) .family = name
#define VALUE(f) .value = f
#define ON(list) .problems = list, .count = sizeof list / sizeof list[0]
#define BEYOND_EXP .beyond_exp = true
#define BEYOND_FP16 .beyond_fp16 = true
#define CPU_ONLY .cpu_only = true

const struct check softmax_checks[] = {
    { "ordinary", "normal numbers, ordinary shapes: all that many checks try", FAMILY("normal"), ON(ordinary) },
    { "shapes", "normal numbers; all shapes that might be mishandled", FAMILY("normal"), BEYOND_FP16, ON(grid) },
    { "offsets", "x and y start 1, 2 or 3 elements after an aligned address", FAMILY("normal"), BEYOND_FP16, ON(offsets) },
    { "unlike offsets", "x and y start at different places after one", FAMILY("normal"), BEYOND_FP16, CPU_ONLY,
      ON(unlike_offsets) },
    { "equal", "all numbers equal: exactly 1/n", FAMILY("equal"), ON(varied) },
    { "rising", "from -320 to +320 along the row", FAMILY("rising"), BEYOND_EXP, ON(varied) },
    { "falling", "from +320 to -320 along the row", FAMILY("falling"), BEYOND_EXP, ON(varied) },
    { "far", "normal numbers - 10000: a maximum that starts at 0 stays there", FAMILY("far"), BEYOND_EXP, ON(varied) },
    { "far below", "below -50000, down to the largest float there is", FAMILY("deep"), BEYOND_EXP, ON(varied) },
    { "shifted", "normal numbers + 100: exp(100) does not fit a float", FAMILY("shifted"), BEYOND_EXP, ON(varied) },
    { "peak", "one 10000 among normal numbers", FAMILY("peak"), BEYOND_EXP, ON(varied) },
    { "huge", "the largest floats of either sign", VALUE(huge), BEYOND_EXP, ON(varied) },
    { "maximum anywhere", "the maximum at either end of vectors, tiles and rows", VALUE(maximum_anywhere), BEYOND_EXP,
      ON(varied) },
    { "masked", "a quarter of all numbers -inf, at random", FAMILY("masked"), ON(varied) },
    { "masked start", "nothing but -inf up to somewhere", VALUE(masked_start), ON(varied) },
    { "masked end", "nothing but -inf from somewhere on", VALUE(masked_end), ON(varied) },
    { "empty rows", "every other row nothing but -inf: NaN there, and only there", FAMILY("empty"), ON(varied) },
    { "NaN rows", "a NaN in every other row: NaN there, and only there", VALUE(nan_anywhere), ON(varied) },
    { "infinite rows", "a +inf in every other row: NaN there, and only there", VALUE(infinity_anywhere), BEYOND_EXP, ON(varied) },
    { "denormals", "numbers too small for a normal float", VALUE(denormal), BEYOND_FP16, ON(varied) },
    { "long rows", "normal numbers, rows of 128 Ki and 1 Mi", FAMILY("normal"), BEYOND_FP16, ON(long_rows) },
    { "drifting", "a long row in which all additions round the same way", FAMILY("drift"), BEYOND_FP16, ON(long_rows) },
};
const int softmax_check_count = sizeof softmax_checks / sizeof softmax_checks[0];

const struct check *check_named(const char *name)
{
    for (int i = 0; i < softmax_check_count; i++)
        if (strcmp(softmax_checks[i].name, name) == 0)
            return &softmax_checks[i];
    return NULL;
}

bool is_naive(const struct subject *s)
{
    return strcmp(s->step->name, "01_naive_softmax") == 0;
}

bool check_leaves_out(const struct check *c, const struct subject *s)
{
    return is_naive(s) && s->dtype == FP16 && c->beyond_fp16;
}

bool group_at(int index, bool gpu, const struct check **c, enum dtype *dtype)
{
    for (*c = softmax_checks; *c < softmax_checks + softmax_check_count; ++*c)
        for (*dtype = FP32; *dtype <= BF16; ++*dtype) {
            struct subject s[MAX_SUBJECTS];
            if (!(gpu && (*c)->cpu_only) && subjects_of(s, *dtype, gpu) > 0 && index-- == 0)
                return true;
        }
    return false;
}

int group_count(bool gpu)
{
    const struct check *c;
    enum dtype dtype;
    int count = 0;
    while (group_at(count, gpu, &c, &dtype))
        count++;
    return count;
}

void check_fill(const struct check *c, void *x, enum dtype dtype, int64_t rows, int64_t cols)
{
    float largest = dtype == FP16 ? 65504 : dtype == BF16 ? 0x1.fep127f : FLT_MAX;
    if (c->family) {
        input_fill(x, dtype, rows, cols, c->family, 1);
        return;
    }
    for (int64_t row = 0; row < rows; row++)
        for (int64_t col = 0; col < cols; col++)
            element_set(x, dtype, row * cols + col, c->value(row, col, cols, largest));
}

/* ---- the verdict */

static bool all_bytes(const void *p, size_t bytes, unsigned char byte)
{
    for (size_t i = 0; i < bytes; i++)
        if (((const unsigned char *)p)[i] != byte)
            return false;
    return true;
}

static void set_failure(struct outcome *o, const struct subject *s, const struct problem *p, const char *what)
{
    o->pass = false;
    snprintf(o->what, sizeof o->what, "%s, %lld x %lld, offsets %d and %d: %s", subject_name(s), (long long)p->rows,
             (long long)p->cols, p->x_offset, p->y_offset, what);
}

/* Runs on the GPU: x and y are guarded host buffers, which are mirrored there. NULL, or what went wrong. */
static const char *run_on_gpu(const struct subject *s, const struct problem *p, const struct buffer *x, struct buffer *y)
{
    size_t element = dtype_bytes(s->dtype), bytes = s->step->workspace ? s->step->workspace(p->rows, p->cols, s->dtype) : 0;
    struct buffer device_x = buffer_new(x->bytes, &gpu_device), device_y = buffer_new(y->bytes, &gpu_device), workspace = { 0 };
    gpu_upload(device_x.data, x->data, x->bytes);
    if (bytes) {
        workspace = buffer_new(bytes, &gpu_device);
        gpu_fill(workspace.data, 0, bytes);
    }
    subject_run(s, (char *)device_y.data + p->y_offset * element, (char *)device_x.data + p->x_offset * element, p->rows, p->cols,
                workspace.data);
    const char *problem = gpu_error();
    if (problem && gpu_error()) /* it stays: the device is of no more use to this process */
        fatal("%s, %lld x %lld: %s; no test after it can run", subject_name(s), (long long)p->rows, (long long)p->cols, problem);
    gpu_download(y->data, device_y.data, y->bytes);
    if (!problem && (!buffer_guards_intact(&device_x) || !buffer_guards_intact(&device_y)))
        problem = "memory outside the tensors was written";
    if (!problem && bytes) {
        void *left = malloc(bytes);
        gpu_download(left, workspace.data, bytes);
        if (!buffer_guards_intact(&workspace) || !all_bytes(left, bytes, 0))
            problem = "the workspace was not left zeroed, or was left";
        free(left);
        buffer_free(&workspace);
    }
    buffer_free(&device_x);
    buffer_free(&device_y);
    return problem;
}

static size_t bytes_of(const struct softmax_case *c)
{
    return (size_t)(c->p.rows * c->p.cols) * dtype_bytes(c->dtype);
}

struct softmax_case case_new(struct problem p, enum dtype dtype, const char *family)
{
    struct softmax_case c = { .p = p, .dtype = dtype };
    c.x = malloc(bytes_of(&c));
    if (!c.x)
        fatal("not enough CPU memory for %zu bytes", bytes_of(&c));
    if (family) {
        input_fill(c.x, dtype, p.rows, p.cols, family, 1);
        case_answer(&c);
    }
    return c;
}

void case_answer(struct softmax_case *c)
{
    c->answers = reference_softmax(c->x, c->dtype, c->p.rows, c->p.cols);
}

void case_free(struct softmax_case *c)
{
    free(c->x);
    softmax_answers_free(&c->answers);
}

const char *case_run(const struct softmax_case *c, const struct subject *s, void *y)
{
    const struct problem *p = &c->p;
    size_t element = dtype_bytes(s->dtype), bytes = bytes_of(c);
    size_t x_start = (size_t)p->x_offset * element, y_start = (size_t)p->y_offset * element;
    struct buffer in = buffer_new(x_start + bytes, &cpu_device), out = buffer_new(y_start + bytes, &cpu_device);
    memcpy((char *)in.data + x_start, c->x, bytes);

    const char *problem = NULL;
    if (s->gpu)
        problem = run_on_gpu(s, p, &in, &out);
    else
        subject_run(s, (char *)out.data + y_start, (char *)in.data + x_start, p->rows, p->cols, NULL);
    memcpy(y, (char *)out.data + y_start, bytes);
    if (!problem && (!buffer_guards_intact(&in) || !buffer_guards_intact(&out) || !all_bytes(out.data, y_start, 0xff)))
        problem = "memory outside the tensors was written";
    if (!problem && memcmp((char *)in.data + x_start, c->x, bytes) != 0)
        problem = "the input was written";
    buffer_free(&in);
    buffer_free(&out);
    return problem;
}

struct outcome case_judge(const struct softmax_case *c, const struct subject *s, void *y)
{
    const struct problem *p = &c->p;
    const char *problem = case_run(c, s, y);
    struct verdict v = verify_softmax_answers(y, c->x, s->dtype, p->rows, p->cols, subject_rounding(s), &c->answers);
    struct outcome o = { .pass = true, .error = v.error, .tolerance = v.tolerance };
    if (problem || !v.pass)
        set_failure(&o, s, p, problem ? problem : v.what);
    return o;
}

void check_all(const struct check *c, const struct subject *subjects, int count, struct outcome *outcomes)
{
    for (int s = 0; s < count; s++)
        outcomes[s] = (struct outcome){ .pass = true };
    for (int i = 0; i < c->count && count > 0; i++) {
        const int64_t *numbers = c->problems[i];
        const struct problem p = { numbers[0], numbers[1], (int)numbers[2], (int)numbers[3] };
        if (getenv("TESTS_SMALL") && p.rows * p.cols > SMALL_ELEMENTS && i > 0)
            continue;
        struct softmax_case made = case_new(p, subjects[0].dtype, NULL);
        void *y = malloc(bytes_of(&made));
        check_fill(c, made.x, made.dtype, p.rows, p.cols);
        case_answer(&made);
        for (int s = 0; s < count; s++) {
            if (!outcomes[s].pass || check_leaves_out(c, &subjects[s]))
                continue;
            struct outcome o = case_judge(&made, &subjects[s], y);
            if (!o.pass || !(o.error <= outcomes[s].error))
                outcomes[s] = o;
        }
        free(y);
        case_free(&made);
    }
}

struct outcome check_run(const struct check *c, const struct subject *s)
{
    struct outcome o;
    check_all(c, s, 1, &o);
    return o;
}

/* ---- mutants */

const struct mutant *mutant_at(int index, bool gpu)
{
    for (int i = 0; i < mutant_count; i++)
        if (mutants[i].gpu == gpu && index-- == 0)
            return &mutants[i];
    return NULL;
}

const char *mutant_escapes(const struct mutant *m)
{
    static char why[512];
    const struct check *c = check_named(m->caught_by);
    const struct softmax_step *correct = step_named(m->mimics);
    if (!c || !correct) {
        snprintf(why, sizeof why, "%s: no check '%s', or no step '%s'", m->step.name, m->caught_by, m->mimics);
        return why;
    }
    struct softmax_step step = m->step;
    step.cpu_sum = correct->cpu_sum;
    step.gpu_sum = correct->gpu_sum;
    struct outcome wrong = check_run(c, &(struct subject){ &step, m->dtype, m->gpu });
    if (wrong.pass) {
        snprintf(why, sizeof why, "check '%s' does not see what is wrong with %s", c->name, m->file);
        return why;
    }
    struct outcome right = check_run(c, &(struct subject){ correct, m->dtype, m->gpu });
    snprintf(why, sizeof why, "check '%s' rejects the correct %s: %s", c->name, m->mimics, right.what);
    return right.pass ? NULL : why;
}

/* Verdicts. docs/numerics.md derives the bounds. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bound.h"
#include "harness.h"

#define WORST_ALLOWED 0.5        /* however long the chain: a result that is wrong by half is wrong */
#define BLOCK 1024               /* numbers that are converted to double at a time */
#define ATTENTION_WORK 0x1p33    /* products of a query with a key, times dim, that a CPU is given: a few seconds at most */
#define BACKWARD_WORK 0x1p30     /* the same for gradients, which take five products of fp64 and as many for the bound */
#define BROKEN_ROWS 64           /* rows that are not finite, and are compared although they were not drawn */
#define CHUNK (4 << 20)          /* elements of O whose answers are in memory at a time */
#define CROSS_CHECKED 32         /* rows of which both references are computed */

/* Unit roundoff, smallest normal number, and half the distance of neighbours below it. */
static const struct { double unit, tiny, half_step; } format[] = {
    [FP32] = { 0x1p-24, 0x1p-126, 0x1p-150 },
    [FP16] = { 0x1p-11, 0x1p-14, 0x1p-25 },
    [BF16] = { 0x1p-8, 0x1p-126, 0x1p-134 },
};

const char *verdict_word(const struct verdict *v)
{
    return v->pass ? "pass" : v->doubtful && !v->wrong ? "in doubt" : "FAIL";
}

const char *verdict_coverage(const struct verdict *v)
{
    static char text[96];
    if (v->checked == v->rows)
        snprintf(text, sizeof text, "all %lld row%s compared", (long long)v->rows, v->rows == 1 ? "" : "s");
    else
        snprintf(text, sizeof text, "%lld of %lld rows compared, sample seed %llu", (long long)v->checked, (long long)v->rows,
                 (unsigned long long)v->seed);
    return text;
}

uint64_t fresh_seed(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return random_bits((uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec, (uint64_t)getpid()) % 1000000;
}

/* Add what was found in one row to what is known of all. */
static void fold(struct verdict *v, const struct verdict *mine)
{
    /* whoever found it first */
    bool first = mine->first_wrong >= 0 && (v->first_wrong < 0 || mine->first_wrong < v->first_wrong);
    v->checked += mine->checked;
    v->wrong += mine->wrong;
    v->doubtful += mine->doubtful;
    if (!(mine->error <= v->error) && !isnan(v->error)) {
        v->error = mine->error;
        v->tolerance = mine->tolerance;
    }
    if (first)
        v->first_wrong = mine->first_wrong;
    if (first || (v->first_wrong < 0 && !v->what[0]))
        memcpy(v->what, mine->what, sizeof v->what);
}

static void conclude(struct verdict *v)
{
    v->pass = v->checked > 0 && v->wrong == 0 && v->doubtful == 0;
}

/* Fold a wrong or a right element into what is known of a row. `place`: where it is, in words. */
static void judge_element(struct verdict *mine, double got, double want, double bound, double scale, int64_t row,
                          const char *place, int64_t at)
{
    double error = fabs(got - want);
    if (got == want || (isnan(want) && (isnan(got) || (isinf(bound) && isinf(got))))) /* infinities, too */
        return;
    if (!(error / scale <= mine->error)) { /* a NaN stays: nothing compares with it */
        mine->error = isnan(mine->error) ? NAN : error / scale;
        mine->tolerance = bound / scale;
    }
    if (!(error <= bound) && mine->wrong++ == 0) {
        mine->first_wrong = row;
        snprintf(mine->what, sizeof mine->what, "row %lld, %s %lld: got %.9g, want %.9g, within %.2g", (long long)row, place,
                 (long long)at, isnan(got) ? NAN : got, isnan(want) ? NAN : want, bound); /* a NaN's sign means nothing */
    }
}

/* ---- softmax */

/* The bound of an element of a row: floor + want * min(base + slope * below, WORST_ALLOWED). */
struct softmax_limit {
    double base, slope, floor;
};

/* Additions that an addend of a row's sum passes through, at most. */
static double chain_of(int64_t cols, struct rounding how)
{
    double lanes = how.lanes > 0 ? how.lanes : 1;
    double addends = how.block > 0 && how.block < cols ? (double)how.block : (double)cols;
    return ceil(addends / lanes) + log2(lanes) + how.extra;
}

static struct softmax_limit softmax_limit(double spread, enum dtype dtype, int64_t cols, struct rounding how)
{
    double unit = how.unit > 0 ? how.unit : format[FP32].unit;
    /* x - m and exp, averaged over the row; a rescale and an addition a link */
    double sum = (3 * spread + 4 + 4 * chain_of(cols, how)) * unit;
    double output = dtype == FP32 ? 0 : format[dtype].unit;
    return (struct softmax_limit){ 4 * unit + sum + output, 3 * unit, format[dtype].half_step + format[FP32].tiny };
}

static double limit_at(struct softmax_limit l, double want, double below)
{
    double relative = l.base + l.slope * below; /* 3 below + 4: x - m, exp, the division */
    relative = relative < WORST_ALLOWED ? relative : WORST_ALLOWED;
    return (want > 0 ? want * relative : 0) + l.floor; /* below may be infinite where want is 0 */
}

double softmax_bound(double want, double below, double spread, enum dtype dtype, int64_t cols, struct rounding how)
{
    return limit_at(softmax_limit(spread, dtype, cols, how), want, below);
}

/*
 * A first look at `count` elements, in a loop that vectorises: how many are outside their bounds or further off than `worst`,
 * which nobody need look at again when it is 0; and to *small are added those whose bound lets 0 pass.
 */
static int64_t count_remarkable(const double *want, const double *got, const double *in, int64_t count, double max,
                                struct softmax_limit l, double tiny, double worst, int64_t *small)
{
    int64_t remarkable = 0, zeros_pass = 0;
#pragma omp simd reduction(+ : remarkable, zeros_pass)
    for (int64_t i = 0; i < count; i++) {
        double bound = limit_at(l, want[i], max - in[i]), error = fabs(got[i] - want[i]);
        remarkable += !((error <= bound) & (error <= worst * (want[i] + tiny)));
        zeros_pass += want[i] <= bound;
    }
    *small += zeros_pass;
    return remarkable;
}

/* Compare one row with `want`, (cols); add what is found to *mine. */
static void compare_row(struct verdict *mine, const double *want, struct row_facts facts, const void *y, const void *x,
                        enum dtype dtype, int64_t row, int64_t cols, struct rounding how)
{
    struct softmax_limit limit = softmax_limit(facts.spread, dtype, cols, how);
    double got[BLOCK], in[BLOCK], tiny = format[dtype].tiny;
    int64_t small = 0;
    for (int64_t first = 0; first < cols; first += BLOCK) {
        int64_t count = cols - first < BLOCK ? cols - first : BLOCK;
        elements(got, y, dtype, row * cols + first, count);
        elements(in, x, dtype, row * cols + first, count);
        if (count_remarkable(want + first, got, in, count, facts.max, limit, tiny, mine->error, &small) == 0)
            continue;
        for (int64_t i = 0; i < count; i++)
            judge_element(mine, got[i], want[first + i], limit_at(limit, want[first + i], facts.max - in[i]),
                          want[first + i] + tiny, row, "column", first + i);
    }
    mine->checked++;
    if (small == cols && mine->doubtful++ == 0 && !mine->wrong)
        snprintf(mine->what, sizeof mine->what, "row %lld: its numbers are so small that zeros would pass", (long long)row);
}

/* answers: those of all rows, or NULL. */
static struct verdict compare_rows(const void *y, const void *x, enum dtype dtype, int64_t rows, int64_t cols,
                                   struct rounding how, const struct softmax_answers *answers)
{
    struct verdict v = { .first_wrong = -1, .rows = rows };
#pragma omp parallel
    {
        struct verdict mine = { .first_wrong = -1 };
        double *want = answers ? NULL : malloc((size_t)cols * sizeof *want);
        if (!answers && !want)
            fatal("not enough CPU memory: %.2f GiB needed to verify a row", (double)cols * sizeof *want / (1 << 30));
#pragma omp for schedule(guided)
        for (int64_t row = 0; row < rows; row++)
            if (answers)
                compare_row(&mine, answers->want + row * cols, answers->facts[row], y, x, dtype, row, cols, how);
            else {
                struct row_facts facts =
                    reference_softmax_row(want, (const char *)x + (size_t)(row * cols) * dtype_bytes(dtype), dtype, cols);
                compare_row(&mine, want, facts, y, x, dtype, row, cols, how);
            }
        free(want);
#pragma omp critical
        fold(&v, &mine);
    }
    conclude(&v);
    return v;
}

struct verdict verify_softmax(const void *y, const void *x, enum dtype dtype, int64_t rows, int64_t cols, struct rounding how)
{
    return compare_rows(y, x, dtype, rows, cols, how, NULL);
}

struct verdict verify_softmax_answers(const void *y, const void *x, enum dtype dtype, int64_t rows, int64_t cols,
                                      struct rounding how, const struct softmax_answers *a)
{
    return compare_rows(y, x, dtype, rows, cols, how, a);
}

/* Compare a row of dx; dx, y, dy: (cols). */
static struct verdict compare_gradient_row(const void *dx, const void *y, const void *dy, enum dtype dtype, int64_t row,
                                           int64_t cols, struct rounding how)
{
    struct verdict mine = { .checked = 1, .first_wrong = -1 };
    double *want = malloc((size_t)cols * sizeof *want), size, largest = format[dtype].tiny, unit = format[FP32].unit;
    if (!want)
        fatal("not enough CPU memory: %.2f GiB needed to verify a row", (double)cols * sizeof *want / (1 << 30));
    double output = dtype == FP32 ? 0 : format[dtype].unit, floor = format[dtype].half_step + format[FP32].tiny;
    double sum = reference_softmax_backward_row(want, y, dy, dtype, cols, &size), error = chain_of(cols, how) * unit * size;
    for (int64_t col = 0; col < cols; col++)
        largest = fmax(largest, fabs(want[col]));
    const char *doubt = error > WORST_ALLOWED * size ? "its sum has so many addends that it may be wrong by half" : NULL;
    for (int64_t col = 0; col < cols; col++) { /* y times the error of the sum, and three roundings */
        double got = element(dx, dtype, col), change = fabs(element(dy, dtype, col));
        double off = error + 3 * unit * fabs(element(dy, dtype, col) - sum);
        double bound = fabs(element(y, dtype, col)) * off + output * fabs(want[col]) + floor;
        if (!isfinite(got) && isfinite(want[col]) && change + size > LARGEST_SCORE)
            doubt = "dy is so large that its sum, or what it differs by from that, is beyond fp32";
        else
            judge_element(&mine, got, want[col], bound, largest, row, "column", col);
    }
    mine.doubtful = doubt != NULL;
    if (doubt && !mine.wrong)
        snprintf(mine.what, sizeof mine.what, "row %lld: %s", (long long)row, doubt);
    free(want);
    return mine;
}

struct verdict verify_softmax_backward(const void *dx, const void *y, const void *dy, enum dtype dtype, int64_t rows,
                                       int64_t cols, struct rounding how)
{
    struct verdict v = { .first_wrong = -1, .rows = rows };
    size_t bytes = (size_t)cols * dtype_bytes(dtype);
#pragma omp parallel for schedule(guided)
    for (int64_t row = 0; row < rows; row++) {
        size_t at = (size_t)row * bytes;
        struct verdict mine =
            compare_gradient_row((const char *)dx + at, (const char *)y + at, (const char *)dy + at, dtype, row, cols, how);
#pragma omp critical
        fold(&v, &mine);
    }
    conclude(&v);
    return v;
}

double verify_softmax_bytes(int64_t rows, int64_t cols)
{
    return fmin((double)rows, cpu_threads()) * (double)cols * sizeof(double);
}

/* ---- attention */

static const char *const doubts[] = {
    [BLIND] = "the scores are so large that fp32 cannot tell the weights: zeros, or a mean of V, would pass",
    [OVERFLOW_OF_S] = "a score, or a sum on the way to it, is beyond fp32",
};

/* Compare the at-th row that there are answers for. */
static void compare_query(struct verdict *v, const void *O, const float *lse, const struct answers *a, int64_t at)
{
    struct attention p = a->p;
    int64_t row = a->rows[at], kv = attention_kv_head(p, row / p.seq_q);
    const double *want = a->want + at * p.dim, *bound = a->bound + at * p.dim, *largest = a->largest + kv * p.dim;
    double visible = (double)attention_visible(p, row % p.seq_q), got[p.dim], scale = format[a->dtype].tiny;
    double most = a->dtype == FP32 ? FLT_MAX : ATTENTION_VALUES; /* in 16 bits weights may be larger than 1 */
    struct verdict mine = { .checked = 1, .first_wrong = -1 };
    const char *doubt = a->doubt[at] ? doubts[a->doubt[at]] : NULL;
    elements(got, O, a->dtype, row * p.dim, p.dim);
    for (int64_t i = 0; i < p.dim; i++) /* O's elements cancel: errors are relative to the largest of the row */
        scale = fmax(scale, fabs(want[i]));
    for (int64_t i = 0; i < p.dim && a->doubt[at] != OVERFLOW_OF_S; i++)
        if (!isfinite(got[i]) && isfinite(want[i]) && visible * largest[i] > most)
            doubt = "V is so large that the sum of weights times V, not yet divided, is beyond fp32";
        else
            judge_element(&mine, got[i], want[i], bound[i], scale, row, "element", i);
    if (lse && a->doubt[at] != OVERFLOW_OF_S)
        judge_element(&mine, lse[row], a->lse[at].want, a->lse[at].bound, fabs(a->lse[at].want) + 1, row, "lse", 0);
    mine.doubtful = doubt != NULL;
    if (doubt && !mine.wrong)
        snprintf(mine.what, sizeof mine.what, "row %lld: %s", (long long)row, doubt);
#pragma omp critical
    fold(v, &mine);
}

struct verdict verify_answers(const void *O, const float *lse, const struct answers *a)
{
    struct verdict v = { .first_wrong = -1, .rows = a->p.batch * a->p.heads * a->p.seq_q };
#pragma omp parallel for schedule(guided)
    for (int64_t at = 0; at < a->count; at++)
        compare_query(&v, O, lse, a, at);
    conclude(&v);
    return v;
}

static bool finite_row(const void *O, enum dtype dtype, int64_t row, int64_t dim)
{
    for (int64_t i = 0; i < dim; i++)
        if (!isfinite(element(O, dtype, row * dim + i)))
            return false;
    return true;
}

/* The rows to compare, in order: all; or the first, the last, about
   `wanted` at random, and some that are not finite. free() them. */
static int64_t *drawn_rows(int64_t *count, const void *O, enum dtype dtype, struct attention p, double wanted, uint64_t seed)
{
    int64_t all = p.batch * p.heads * p.seq_q, broken = 0, *rows = malloc((size_t)(all + 1) * sizeof *rows);
    if (!rows)
        fatal("not enough CPU memory to verify %lld rows", (long long)all);
    *count = 0;
    for (int64_t row = 0; row < all; row++) {
        bool drawn = wanted >= (double)all || row == 0 || row == all - 1 ||
                     (double)(random_bits(seed, (uint64_t)row) >> 11) * 0x1p-53 * (double)all < wanted;
        if (drawn || (broken < BROKEN_ROWS && !finite_row(O, dtype, row, p.dim) && ++broken))
            rows[(*count)++] = row;
    }
    return rows;
}

double verify_attention_bytes(struct attention p)
{
    double rows = (double)(p.batch * p.heads * p.seq_q), keys = (double)p.seq_k;
    return sizeof(int64_t) * rows +
           2 * sizeof(double) * (fmin(rows * (double)p.dim, CHUNK) + keys * (double)(p.dim + cpu_threads()));
}

static bool alike(double a, double b, double within)
{
    return (isnan(a) && isnan(b)) || a == b || fabs(a - b) <= within;
}

/* Whether the two references agree on a few rows, to a thousandth of the bound. */
static bool references_agree(const void *Q, const void *K, const void *V, enum dtype dtype, struct attention p,
                             struct attention_rounding how, uint64_t seed)
{
    int64_t rows[CROSS_CHECKED] = { 0 }, all = p.batch * p.heads * p.seq_q, count = all < CROSS_CHECKED ? all : CROSS_CHECKED;
    for (int64_t i = 0; i < count; i++) /* one from each of `count` equal parts */
        rows[i] =
            all * i / count + (int64_t)(random_bits(~seed, (uint64_t)i) % (uint64_t)(all * (i + 1) / count - all * i / count));
    struct answers cpu = reference_attention(Q, K, V, dtype, p, how, rows, count, false);
    struct answers gpu = reference_attention(Q, K, V, dtype, p, how, rows, count, true);
    bool agree = true;
    for (int64_t at = 0; at < count && agree; at++) {
        agree &= alike(cpu.lse[at].want, gpu.lse[at].want, 1e-3 * cpu.lse[at].bound) &&
                 alike(cpu.lse[at].bound, gpu.lse[at].bound, 1e-3 * cpu.lse[at].bound);
        for (int64_t i = at * p.dim; i < (at + 1) * p.dim; i++)
            agree &=
                alike(cpu.want[i], gpu.want[i], 1e-3 * cpu.bound[i]) && alike(cpu.bound[i], gpu.bound[i], 1e-3 * cpu.bound[i]);
    }
    answers_free(&cpu);
    answers_free(&gpu);
    return agree;
}

struct verdict verify_attention_rows(const void *O, const float *lse, const void *Q, const void *K, const void *V,
                                     enum dtype dtype, struct attention p, struct attention_rounding how, double wanted,
                                     uint64_t seed, bool gpu)
{
    struct verdict v = { .first_wrong = -1, .rows = p.batch * p.heads * p.seq_q, .seed = seed };
    int64_t count, rows_at_a_time = CHUNK / p.dim;
    int64_t *rows = drawn_rows(&count, O, dtype, p, wanted, seed);
    for (int64_t first = 0; first < count; first += rows_at_a_time) {
        int64_t some = count - first < rows_at_a_time ? count - first : rows_at_a_time;
        struct answers a = reference_attention(Q, K, V, dtype, p, how, rows + first, some, gpu);
        struct verdict mine = verify_answers(O, lse, &a);
        fold(&v, &mine);
        answers_free(&a);
    }
    free(rows);
    conclude(&v);
    if (gpu && !references_agree(Q, K, V, dtype, p, how, seed)) {
        v.pass = false;
        snprintf(v.what, sizeof v.what, "the reference computed on the GPU is not that of the CPU: neither can be trusted");
    }
    return v;
}

struct verdict verify_attention(const void *O, const float *lse, const void *Q, const void *K, const void *V, enum dtype dtype,
                                struct attention p, struct attention_rounding how, uint64_t seed, bool gpu)
{
    double work = attention_pairs(p) * (double)p.dim, affordable = gpu ? reference_gpu_work() : ATTENTION_WORK;
    double rows = (double)(p.batch * p.heads * p.seq_q);
    return verify_attention_rows(O, lse, Q, K, V, dtype, p, how, work <= affordable ? rows : rows * affordable / work, seed, gpu);
}

struct verdict verify_attention_paged(const void *O, const float *lse, const void *Q, const void *K, const void *V,
                                      struct pages pages, enum dtype dtype, struct attention p, struct attention_rounding how,
                                      uint64_t seed, bool gpu)
{
    struct verdict v = { .first_wrong = -1, .rows = p.batch * p.heads * p.seq_q, .seed = seed };
    struct attention one = p;
    one.batch = 1;
    int64_t rows = p.heads * p.seq_q;
    double work = (double)rows * (double)pages.keys * (double)p.dim, affordable = gpu ? reference_gpu_work() : ATTENTION_WORK;
    double wanted = work <= affordable ? (double)rows : (double)rows * affordable / work;
    for (int64_t b = 0; b < p.batch; b++) {
        struct pages its = pages;
        its.table += b * pages.most;
        its.seqlens += b;
        one.seq_k = *its.seqlens;
        size_t bytes = (size_t)(p.kv_heads * one.seq_k * p.dim) * dtype_bytes(dtype), at = (size_t)(b * rows * p.dim);
        struct buffer k = buffer_new(bytes, &cpu_device), v_plain = buffer_new(bytes, &cpu_device);
        pages_gather(k.data, K, its, one, dtype);
        pages_gather(v_plain.data, V, its, one, dtype);
        at *= dtype_bytes(dtype);
        struct verdict mine = verify_attention_rows((const char *)O + at, lse ? lse + b * rows : NULL, (const char *)Q + at,
                                                    k.data, v_plain.data, dtype, one, how, wanted, seed,
                                                    gpu && one.seq_k > 0); /* the GPU's reference wants keys */
        if (mine.first_wrong >= 0)
            mine.first_wrong += b * rows;
        if (mine.what[0] && p.batch > 1) {
            char what[sizeof mine.what];
            snprintf(what, sizeof what, "sequence %lld: %.120s", (long long)b, mine.what);
            memcpy(mine.what, what, sizeof what);
        }
        fold(&v, &mine);
        buffer_free(&k);
        buffer_free(&v_plain);
    }
    conclude(&v);
    return v;
}

/* ---- the gradient of attention */

static bool finite_tensor(const void *x, enum dtype dtype, int64_t at, int64_t count)
{
    bool finite = true;
    for (int64_t i = at; i < at + count && finite; i++)
        finite = isfinite(element(x, dtype, i));
    return finite;
}

static double largest_of(const void *x, enum dtype dtype, int64_t at, int64_t count)
{
    double largest = 0;
    for (int64_t i = at; i < at + count; i++)
        largest = fmax(largest, fabs(element(x, dtype, i)));
    return largest;
}

/*
 * Whether a score, dP, D, dS or a sum of them times a tensor may be beyond fp32, or dS beyond the 16 bits that it is rounded to,
 * in a head of K and V with its group: where the largest numbers of all tensors meet, and nothing cancels.
 */
static bool may_overflow(const struct backward_inputs *in, enum dtype dtype, struct attention p, struct attention_rounding how,
                         int64_t kv)
{
    int64_t rows = attention_group(p) * p.seq_q, queries = rows * p.dim, keys = p.seq_k * p.dim;
    double Q = largest_of(in->Q, dtype, kv * queries, queries), K = largest_of(in->K, dtype, kv * keys, keys),
           V = fmax(largest_of(in->V, dtype, kv * keys, keys), largest_of(in->O, dtype, kv * queries, queries)),
           dO = largest_of(in->dO, dtype, kv * queries, queries), scale = fmax(1, fabs(p.scale)),
           dS = 2 * (double)p.dim * dO * V + (in->dlse ? largest_of(in->dlse, FP32, kv * rows, rows) : 0),
           sums = fmax(dS * fmax((double)p.seq_k * K, (double)rows * Q), (double)rows * dO);
    return fmax(scale * fmax(sums, (double)p.dim * Q * K), dS) > LARGEST_SCORE || (how.weights && dtype == FP16 && dS > 65504);
}

/* Whether a gradient may be beyond its type. */
static bool beyond_type(double want, double bound, enum dtype dtype)
{
    return fabs(want) + bound > (dtype == FP16 ? 65504 : LARGEST_SCORE);
}

/*
 * Compare `rows` rows from `first` on with want, (rows, dim). Errors are relative to the largest of them all: they cancel.
 * overflow: what is not finite may be so for a right step, too.
 */
static void compare_gradient(struct verdict *v, const char *name, const void *got, enum dtype dtype, const double *want,
                             const double *bound, bool overflow, int64_t first, int64_t rows, int64_t dim)
{
    double largest = format[dtype].tiny;
    for (int64_t i = 0; i < rows * dim; i++)
        largest = fmax(largest, fabs(want[i]));
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        struct verdict mine = { .checked = 1, .first_wrong = -1 };
        for (int64_t i = row * dim; i < (row + 1) * dim; i++) {
            double x = element(got, dtype, first * dim + i);
            if (!isfinite(x) && isfinite(want[i]) && (overflow || beyond_type(want[i], bound[i], dtype)))
                mine.doubtful = 1;
            else
                judge_element(&mine, x, want[i], bound[i], largest, first + row, name, i % dim);
        }
        if (mine.doubtful && !mine.wrong)
            snprintf(mine.what, sizeof mine.what, "row %lld, %s: numbers so large that it, or a sum on the way, is beyond %s",
                     (long long)(first + row), name, dtype == FP16 ? "its type" : "fp32");
#pragma omp critical
        fold(v, &mine);
    }
}

struct verdict verify_gradients(const void *dQ, const void *dK, const void *dV, const struct backward_inputs *in,
                                enum dtype dtype, struct attention p, struct attention_rounding how, uint64_t seed,
                                struct gradients *known)
{
    int64_t heads = p.batch * p.kv_heads, group = attention_group(p), broken = 0;
    struct verdict v = { .first_wrong = -1, .rows = heads * (group * p.seq_q + 2 * p.seq_k), .seed = seed };
    double work = attention_pairs(p) * (double)p.dim, wanted = work <= BACKWARD_WORK ? 1 : BACKWARD_WORK / work;
    int64_t certain = (int64_t)(random_bits(seed, (uint64_t)heads) % (uint64_t)heads);
    for (int64_t kv = 0; kv < heads; kv++) {
        int64_t queries = group * p.seq_q, keys = p.seq_k;
        bool drawn = kv == certain || (double)(random_bits(seed, (uint64_t)kv) >> 11) * 0x1p-53 < wanted;
        bool finite = finite_tensor(dQ, dtype, kv * queries * p.dim, queries * p.dim) &&
                      finite_tensor(dK, dtype, kv * keys * p.dim, keys * p.dim) &&
                      finite_tensor(dV, dtype, kv * keys * p.dim, keys * p.dim);
        if (!drawn && (finite || broken++))
            continue;
        struct gradients g = known && known[kv].dQ ? known[kv] : reference_attention_backward(in, dtype, p, how, kv);
        bool overflow = may_overflow(in, dtype, p, how, kv);
        compare_gradient(&v, "dQ", dQ, dtype, g.dQ, g.dQ_bound, overflow, kv * queries, queries, p.dim);
        compare_gradient(&v, "dK", dK, dtype, g.dK, g.dK_bound, overflow, kv * keys, keys, p.dim);
        compare_gradient(&v, "dV", dV, dtype, g.dV, g.dV_bound, overflow, kv * keys, keys, p.dim);
        v.doubtful += g.doubtful;
        if (g.doubtful && !v.wrong)
            snprintf(v.what, sizeof v.what, "head %lld of K: scores so large that fp32 knows the weights of %lld queries to 1/4, "
                     "at best", (long long)kv, (long long)g.doubtful);
        if (known)
            known[kv] = g;
        else
            gradients_free(&g);
    }
    conclude(&v);
    return v;
}

struct verdict verify_attention_backward(const void *dQ, const void *dK, const void *dV, const struct backward_inputs *in,
                                         enum dtype dtype, struct attention p, struct attention_rounding how, uint64_t seed)
{
    return verify_gradients(dQ, dK, dV, in, dtype, p, how, seed, NULL);
}

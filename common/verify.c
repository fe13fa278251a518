/* Verdicts. docs/numerics.md derives the bound. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

#define FULL_ELEMENTS (4 << 20)  /* up to this many elements are compared one by one; beyond, whole rows at random */
#define SUM_SCREEN 1e-3          /* a row whose sum is further from 1 than this is compared one by one as well */
#define WORST_ALLOWED 0.5        /* however long the chain: a result that is wrong by half is wrong */

/* Unit roundoff, smallest normal number, and half the distance of neighbours below it. */
static const struct { double unit, tiny, half_step; } format[] = {
    [FP32] = { 0x1p-24, 0x1p-126, 0x1p-150 },
    [FP16] = { 0x1p-11, 0x1p-14, 0x1p-25 },
    [BF16] = { 0x1p-8, 0x1p-126, 0x1p-134 },
};

double softmax_bound(double want, double below, double spread, enum dtype dtype, int64_t cols, struct rounding how)
{
    double unit = how.unit > 0 ? how.unit : format[FP32].unit;
    double lanes = how.lanes > 0 ? how.lanes : 1;
    double addends = how.block > 0 && how.block < cols ? (double)how.block : (double)cols;
    double chain = ceil(addends / lanes) + log2(lanes) + how.extra;

    double numerator = (3 * below + 4) * unit;          /* x - m, exp, the division */
    double sum = (3 * spread + 4 + 4 * chain) * unit;   /* the same, averaged over the row; a rescale and an addition a link */
    double output = dtype == FP32 ? 0 : format[dtype].unit;
    double relative = fmin(numerator + sum + output, WORST_ALLOWED);
    return (want > 0 ? want * relative : 0) + format[dtype].half_step + format[FP32].tiny; /* below may be infinite where want is 0 */
}

static double row_sum(const void *y, enum dtype dtype, int64_t at, int64_t cols)
{
    double sum = 0;
    for (int64_t col = 0; col < cols; col++)
        sum += element(y, dtype, at + col);
    return sum;
}

/* Add what was found in one row to what is known of all. */
static void fold(struct verdict *v, const struct verdict *mine)
{
    v->checked += mine->checked;
    v->wrong += mine->wrong;
    if (!(mine->error <= v->error) && !isnan(v->error)) {
        v->error = mine->error;
        v->tolerance = mine->tolerance;
    }
    if (mine->wrong && (v->first_wrong < 0 || mine->first_wrong < v->first_wrong)) { /* the lowest row, whoever found it first */
        v->first_wrong = mine->first_wrong;
        memcpy(v->what, mine->what, sizeof v->what);
    }
}

/* Compare one row; fold what is found into *v. `want` is scratch of cols doubles. */
static void compare_row(struct verdict *v, double *want, const void *y, const void *x, enum dtype dtype, int64_t row, int64_t cols,
                        struct rounding how)
{
    size_t size = dtype_bytes(dtype);
    struct row_facts facts = reference_softmax_row(want, (const char *)x + (size_t)(row * cols) * size, dtype, cols);
    struct verdict mine = { .checked = 1 };
    for (int64_t col = 0; col < cols; col++) {
        double got = element(y, dtype, row * cols + col), below = facts.max - element(x, dtype, row * cols + col);
        if (isnan(want[col]) && isnan(got))
            continue;
        double bound = softmax_bound(want[col], below, facts.spread, dtype, cols, how);
        double scale = want[col] + format[dtype].tiny, error = fabs(got - want[col]);
        if (!(error / scale <= mine.error)) { /* a NaN stays: nothing compares with it */
            mine.error = isnan(mine.error) ? NAN : error / scale;
            mine.tolerance = bound / scale;
        }
        if (!(error <= bound) && mine.wrong++ == 0)
            snprintf(mine.what, sizeof mine.what, "row %lld, column %lld: got %.9g, want %.9g, within %.2g", (long long)row,
                     (long long)col, isnan(got) ? NAN : got, want[col], bound); /* a NaN's sign means nothing */
    }
    mine.first_wrong = row;
#pragma omp critical
    fold(v, &mine);
}

struct verdict verify_softmax(const void *y, const void *x, enum dtype dtype, int64_t rows, int64_t cols, struct rounding how,
                              uint64_t seed)
{
    struct verdict v = { .first_wrong = -1 };
    int64_t sample = FULL_ELEMENTS / cols + 3;
#pragma omp parallel
    {
        double *want = malloc((size_t)cols * sizeof *want);
        if (!want)
            fatal("not enough CPU memory: %.2f GiB needed to verify a row", (double)cols * sizeof *want / (1 << 30));
#pragma omp for schedule(dynamic, 16)
        for (int64_t row = 0; row < rows; row++) {
            bool drawn = rows <= sample || row == 0 || row == rows - 1 ||
                         (int64_t)(random_bits(seed, (uint64_t)row) % (uint64_t)rows) < sample;
            if (drawn || !(fabs(row_sum(y, dtype, row * cols, cols) - 1) <= SUM_SCREEN))
                compare_row(&v, want, y, x, dtype, row, cols, how);
        }
        free(want);
    }
    v.pass = v.wrong == 0;
    return v;
}

#define ATTENTION_WORK (1 << 26)  /* products of a query with a key, times dim, that are recomputed in double */

/* Fold a wrong or a right element into what is known of a row. */
static void judge_element(struct verdict *mine, double got, double want, double bound, double scale, int64_t row, const char *what, int64_t at)
{
    if (isnan(want) && isnan(got))
        return;
    if (got == want) /* infinities, too */
        return;
    double error = fabs(got - want);
    if (!(error / scale <= mine->error)) {
        mine->error = isnan(mine->error) ? NAN : error / scale;
        mine->tolerance = bound / scale;
    }
    if (!(error <= bound) && mine->wrong++ == 0)
        snprintf(mine->what, sizeof mine->what, "query row %lld, %s %lld: got %.9g, want %.9g, within %.2g", (long long)row, what,
                 (long long)at, isnan(got) ? NAN : got, isnan(want) ? NAN : want, bound);
}

static void compare_query(struct verdict *v, double *scratch, const void *O, const float *lse, const void *Q, const void *K,
                          const void *V, enum dtype dtype, struct attention p, struct attention_rounding how, int64_t row)
{
    size_t size = dtype_bytes(dtype);
    int64_t head = row / p.seq_q, kv = head / p.heads * p.kv_heads + head % p.heads / (p.heads / p.kv_heads);
    struct attention_row one = {
        (const char *)Q + (size_t)(row * p.dim) * size, (const char *)K + (size_t)(kv * p.seq_k * p.dim) * size,
        (const char *)V + (size_t)(kv * p.seq_k * p.dim) * size, dtype, attention_visible(p, row % p.seq_q), p.dim, p.scale,
    };
    double *want = scratch, *bound = scratch + p.dim;
    struct lse exact = reference_attention_row(want, bound, scratch + 2 * p.dim, one, how);
    struct verdict mine = { .checked = 1, .first_wrong = row };
    double scale = 0; /* O's elements cancel: errors are relative to the largest of the row */
    for (int64_t i = 0; i < p.dim; i++)
        scale = fmax(scale, fabs(want[i]));
    for (int64_t i = 0; i < p.dim; i++)
        judge_element(&mine, element(O, dtype, row * p.dim + i), want[i], bound[i], scale + format[dtype].tiny, row, "element", i);
    if (lse)
        judge_element(&mine, lse[row], exact.want, exact.bound, fabs(exact.want) + 1, row, "lse", 0);
#pragma omp critical
    fold(v, &mine);
}

static bool finite_row(const void *O, enum dtype dtype, int64_t row, int64_t dim)
{
    for (int64_t i = 0; i < dim; i++)
        if (!isfinite(element(O, dtype, row * dim + i)))
            return false;
    return true;
}

struct verdict verify_attention(const void *O, const float *lse, const void *Q, const void *K, const void *V, enum dtype dtype,
                                struct attention p, struct attention_rounding how, uint64_t seed)
{
    struct verdict v = { .first_wrong = -1 };
    int64_t rows = p.batch * p.heads * p.seq_q, sample = ATTENTION_WORK / (p.seq_k * p.dim) + 16;
#pragma omp parallel
    {
        double *scratch = malloc((size_t)(2 * p.dim + 2 * p.seq_k) * sizeof *scratch);
        if (!scratch)
            fatal("not enough CPU memory to verify rows of %lld keys", (long long)p.seq_k);
#pragma omp for schedule(dynamic, 4)
        for (int64_t row = 0; row < rows; row++) {
            bool drawn = rows <= sample || row == 0 || row == rows - 1 ||
                         (int64_t)(random_bits(seed, (uint64_t)row) % (uint64_t)rows) < sample;
            if (drawn || !finite_row(O, dtype, row, p.dim))
                compare_query(&v, scratch, O, lse, Q, K, V, dtype, p, how, row);
        }
        free(scratch);
    }
    v.pass = v.wrong == 0;
    return v;
}

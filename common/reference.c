/*
 * Softmax in double, straight from the definition: the maximum, the sum of exp(x - max), the quotient. Shares nothing with
 * the steps, merge rule included: a mistake there must not be repeated here.
 */
#include <math.h>

#include "common.h"
#include "half.h"

double element(const void *x, enum dtype dtype, int64_t at)
{
    switch (dtype) {
    case FP16: return fp16_to_float(((const fp16 *)x)[at]);
    case BF16: return bf16_to_float(((const bf16 *)x)[at]);
    case FP32: return ((const float *)x)[at];
    default:   return ((const double *)x)[at];
    }
}

struct row_facts reference_softmax_row(double *want, const void *x, enum dtype dtype, int64_t cols)
{
    double max = -INFINITY;
    bool nan = false;
    for (int64_t col = 0; col < cols; col++) {
        want[col] = element(x, dtype, col);
        nan |= isnan(want[col]);
        if (want[col] > max)
            max = want[col];
    }
    if (nan || isinf(max)) { /* (x - max) would be inf - inf */
        for (int64_t col = 0; col < cols; col++)
            want[col] = NAN;
        return (struct row_facts){ max, NAN };
    }

    double sum = 0, weighted = 0;
    for (int64_t col = 0; col < cols; col++) {
        double below = max - want[col], e = exp(-below);
        want[col] = e;
        sum += e;
        weighted += e > 0 ? e * below : 0;
    }
    for (int64_t col = 0; col < cols; col++)
        want[col] /= sum;
    return (struct row_facts){ max, weighted / sum };
}

#define LARGEST_ERROR 200 /* of a score: e^200 is as good as infinite, and its square is still a number */

struct lse reference_attention_row(double *want, double *bound, double *scratch, struct attention_row row, struct attention_rounding how)
{
    const double unit = 0x1p-24, unit16 = row.dtype == FP16 ? 0x1p-11 : row.dtype == BF16 ? 0x1p-8 : 0;
    double max = -INFINITY, sum = 0, doubt = 0;
    double *error = scratch + row.visible; /* of each score, absolute, as the bound has it; then of its weight, relative */
    for (int64_t key = 0; key < row.visible; key++) {
        double dot = 0, size = 0;
        for (int64_t i = 0; i < row.dim; i++) {
            double product = element(row.q, row.dtype, i) * element(row.K, row.dtype, key * row.dim + i);
            dot += product;
            size += fabs(product);
        }
        scratch[key] = dot * row.scale;
        error[key] = 2 * ((double)row.dim + 4) * unit * size * fabs(row.scale) + (how.scores ? unit16 * fabs(scratch[key]) : 0);
        if (!(scratch[key] <= max)) /* a NaN gets through, and stays */
            max = isnan(max) ? max : scratch[key];
    }
    for (int64_t i = 0; i < row.dim; i++)
        want[i] = bound[i] = 0;
    if (max == -INFINITY) /* nothing to attend to */
        return (struct lse){ -INFINITY, 0 };
    for (int64_t key = 0; key < row.visible; key++) {
        double below = max - scratch[key], weight = exp(-below);
        error[key] += (3 * below + 4) * unit;
        error[key] = expm1(error[key] > LARGEST_ERROR ? LARGEST_ERROR : error[key]);
        scratch[key] = weight;
        sum += weight;
        doubt += weight * error[key];
    }
    doubt /= sum; /* how far the sum of the weights may be off */
    /* O_i = sum of p v: each p is off by its own error, the sum's, and its rounding; and each addition of the two sums counts. */
    double chain = 2 * ((double)row.visible + 32) * unit, rest = 2 * chain + (how.weights ? unit16 : 0);
    double smallest = 0x1p-126 + (how.weights && row.dtype == FP16 ? 0x1p-25 : 0); /* what a weight loses where its type ends */
    for (int64_t key = 0; key < row.visible; key++)
        for (int64_t i = 0; i < row.dim && scratch[key] != 0; i++) {
            double term = scratch[key] / sum * element(row.V, row.dtype, key * row.dim + i);
            want[i] += term;
            bound[i] += fabs(term) * ((1 + error[key]) * (1 + doubt) * (1 + rest) - 1) +
                        smallest / sum * fabs(element(row.V, row.dtype, key * row.dim + i));
        }
    for (int64_t i = 0; i < row.dim; i++)
        bound[i] += fabs(want[i]) * unit16 + 0x1p-126 + (row.dtype == FP16 ? 0x1p-25 : 0);
    double lse = max + log(sum);
    return (struct lse){ lse, log1p(doubt) + chain + 8 * unit * (fabs(lse) + 1) };
}

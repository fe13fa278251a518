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

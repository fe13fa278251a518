/*
 * Mutant: an exp that -ffast-math has simplified.
 *
 * Looks like: n = (t + M) - M rounds t to an integer, by adding and subtracting a large number. -ffast-math may cancel
 * M, and does: n = t, and the polynomial is left with nothing to do.
 * In the wild: gcc 12 does this to such an exp, without a word. karpathy/llm.c#19, #21 and #149 are NaNs that -Ofast
 * made.
 * Caught by: "ordinary": errors of up to 0.4.
 */
#include <math.h>

#include "mutants.h"

static float exp_of(float x)
{
    float t = x * 1.44269504f;
    float n = t; /* should be t rounded */
    float r = (t - n) * 0.693147181f;
    float p = 1.0f + r; /* 1: of the polynomial nothing is left */
    return isnan(x) ? x : ldexpf(p, (int)fmaxf(n, -200.0f));
}

void fast_math_exp(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -INFINITY, sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            max = fmaxf(max, in[col]);
        for (int64_t col = 0; col < cols; col++)
            sum += exp_of(in[col] - max);
        for (int64_t col = 0; col < cols; col++)
            out[col] = exp_of(in[col] - max) / sum;
    }
}

/*
 * Mutant: a maximum that drops NaN makes wrong input look right.
 *
 * Looks like: a clamp against tiny negative results. fmaxf(NaN, 0) is 0, so what should shout comes out as a quiet 0.
 * In the wild: PaddleJitLab/CUDATutorial#69 ("Results are correct" of NaN).
 * Caught by: "NaN rows": a row with a NaN in it must be NaN.
 */
#include <math.h>

#include "mutants.h"

void nan_swallowed(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -INFINITY, sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            max = fmaxf(max, in[col]);
        for (int64_t col = 0; col < cols; col++)
            sum += fmaxf(expf(in[col] - max), 0.0f);
        for (int64_t col = 0; col < cols; col++)
            out[col] = fmaxf(expf(in[col] - max) / sum, 0.0f);
    }
}

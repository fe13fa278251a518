/*
 * Mutant: -1e30 stands for minus infinity.
 *
 * Looks like: the same with more room. Masks made of the most negative float are below it all the same.
 * In the wild: Dao-AILab/flash-attention#1930 and pytorch/pytorch#131060 are of this family: rows far below zero, or
 * masked, come out as 0 or NaN.
 * Caught by: "far below": a row of -FLT_MAX has a maximum of -1e30, and 0 / 0.
 */
#include <math.h>

#include "mutants.h"

void sentinel_1e30(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -1e30f;
        for (int64_t col = 0; col < cols; col++)
            max = fmaxf(max, in[col]);

        float sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            sum += expf(in[col] - max);
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - max) / sum;
    }
}

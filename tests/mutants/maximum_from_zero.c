/*
 * Mutant: the running maximum starts at 0.
 *
 * Looks like: a maximum that starts where sums start. Any row with a number above 0, or not far below it, comes out
 * right.
 * In the wild: Dao-AILab/flash-attention#2082; SzymonOzog/FastSoftmax.
 * Caught by: "far": with all numbers near -10000 and a maximum of 0, every exp is 0, and 0 / 0 is NaN.
 */
#include <math.h>

#include "mutants.h"

void maximum_from_zero(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            max = fmaxf(max, in[col]);

        float sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            sum += expf(in[col] - max);
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - max) / sum;
    }
}

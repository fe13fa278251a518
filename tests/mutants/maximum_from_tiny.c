/*
 * Mutant: the running maximum starts at the smallest positive number.
 *
 * Looks like: FLT_MIN, or 1e-30f, taken for the most negative float. It is the smallest positive one; the most
 * negative is -FLT_MAX.
 * In the wild: lecture 12 of gpu-mode/lectures starts at 1e-30f.
 * Caught by: "far": as with a start at 0.
 */
#include <math.h>

#include "mutants.h"

void maximum_from_tiny(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = 1e-30f;
        for (int64_t col = 0; col < cols; col++)
            max = fmaxf(max, in[col]);

        float sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            sum += expf(in[col] - max);
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - max) / sum;
    }
}

/*
 * Mutant: -50000 stands for minus infinity.
 *
 * Looks like: a finite start for the maximum, so that no inf - inf can arise, small enough for fp16. Rows below it do
 * exist: a mask that adds -1e5, say.
 * In the wild: flashinfer-ai/flashinfer#4401.
 * Caught by: "far below": a row of -60000 has a maximum of -50000, and 0 / 0.
 */
#include <math.h>

#include "mutants.h"

void sentinel_5e4(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -5e4f;
        for (int64_t col = 0; col < cols; col++)
            max = fmaxf(max, in[col]);

        float sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            sum += expf(in[col] - max);
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - max) / sum;
    }
}

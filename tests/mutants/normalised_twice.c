/*
 * Mutant: the result is divided by the sum twice.
 *
 * Looks like: a tile that normalises its own output, and an epilogue that normalises again. A row whose sum is 1 does
 * not mind.
 * In the wild: no thread is known to us; it happens when the division moves from the loop over tiles to its end.
 * Caught by: "ordinary": every element is too small by the sum.
 */
#include <math.h>

#include "mutants.h"

void normalised_twice(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -INFINITY, sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            max = fmaxf(max, in[col]);
        for (int64_t col = 0; col < cols; col++)
            sum += expf(in[col] - max);
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - max) / sum / sum;
    }
}

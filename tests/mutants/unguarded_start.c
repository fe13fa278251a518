/*
 * Mutant: the online recurrence has no guard against a masked start.
 *
 * Looks like: the three lines of the paper. As long as only -inf has come, previous - max is -inf - -inf, and the NaN
 * stays in the sum.
 * In the wild: pytorch/pytorch#131060; tracel-ai/cubecl#1070.
 * Caught by: "masked start": a row that begins with -inf comes out as NaN.
 */
#include <math.h>

#include "mutants.h"

void unguarded_start(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -INFINITY, sum = 0.0f;
        for (int64_t col = 0; col < cols; col++) {
            float previous = max;
            max = fmaxf(max, in[col]);
            sum = sum * expf(previous - max) + expf(in[col] - max);
        }
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - max) / sum;
    }
}

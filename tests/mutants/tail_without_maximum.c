/*
 * Mutant: the columns after the last whole vector are left out of the maximum.
 *
 * Looks like: a vector loop, and a scalar loop for the rest that was written for the sum only. Harmless until the
 * largest number lies in the rest.
 * In the wild: no thread is known to us. Vector loops with a scalar rest are everywhere, and ordinary inputs never
 * show it.
 * Caught by: "maximum anywhere": exp(400 - 120) is infinite.
 */
#include <math.h>

#include "mutants.h"

void tail_without_maximum(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -INFINITY;
        for (int64_t col = 0; col < (cols < 16 ? cols : cols / 16 * 16); col++)
            max = fmaxf(max, in[col]);

        float sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            sum += expf(in[col] - max);
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - max) / sum;
    }
}

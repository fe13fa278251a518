/*
 * Mutant: a long row is added up in one float.
 *
 * Looks like: the plainest loop there is. A float that has grown large does not see small numbers that are added to
 * it.
 * In the wild: oneDNN 2.6 is off by 1e-3 at 16 Mi columns, and it has 16 chains; with one it is 2e-2.
 * Caught by: "drifting": a step that claims to close its sums every 1024 columns promises a bound that this does not
 * keep.
 */
#include <math.h>

#include "mutants.h"

void one_chain(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -INFINITY;
        for (int64_t col = 0; col < cols; col++)
            max = fmaxf(max, in[col]);

        float sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            sum += expf(in[col] - max);
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - max) / sum;
    }
}

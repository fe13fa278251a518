/*
 * Step 02, safe softmax: subtract the maximum of the row first.
 *
 *     m = max over j of x_j        y_i = exp(x_i - m) / sum over j of exp(x_j - m)
 *
 * The common factor exp(-m) cancels, so the quotient is the same; but now every exponent is at most 0, every exp lies in
 * [0, 1], and the sum in [1, cols].
 *
 * Trips over the tensor: 3 reads, 1 write.
 * Changed since step 01: a pass for the maximum, and x - m in place of x.
 */
#include <math.h>

#include "steps.h"

/* x, y: (rows, cols), row-major. Each row of y is the softmax of that row of x. */
void safe_softmax_cpu(float *y, const float *x, int64_t rows, int64_t cols)
{
#pragma omp parallel for
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

/*
 * Step 01, naive softmax: the definition.
 *
 *     y_i = exp(x_i) / sum over j of exp(x_j)
 *
 * exp(x) leaves the range of a float above x = 88.72, and of fp16, which ends at 65504, above x = 11.09. From there on the sum is
 * infinite and the quotient 0, or NaN where infinity is divided by infinity.
 *
 * Trips over the tensor: 2 reads, 1 write.
 */
#include <math.h>

#include "half.h"
#include "steps.h"

/* x, y: (rows, cols), row-major. Each row of y is the softmax of that row of x. */
void naive_softmax_cpu(float *y, const float *x, int64_t rows, int64_t cols)
{
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            sum += expf(in[col]);

        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col]) / sum;
    }
}

/* A float, rounded to what fp16 can hold. */
static float rounded(float value)
{
    return fp16_to_float(float_to_fp16(value));
}

/* The same with every intermediate result in fp16, as a program of nothing but halves would have it. */
void naive_softmax_fp16_cpu(fp16 *y, const fp16 *x, int64_t rows, int64_t cols)
{
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        const fp16 *in = x + row * cols;
        fp16 *out = y + row * cols;

        float sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            sum = rounded(sum + rounded(expf(fp16_to_float(in[col]))));

        for (int64_t col = 0; col < cols; col++)
            out[col] = float_to_fp16(rounded(expf(fp16_to_float(in[col]))) / sum);
    }
}

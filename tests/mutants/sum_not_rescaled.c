/*
 * Mutant: the sum is not rescaled when the maximum rises.
 *
 * Looks like: an online softmax without its correction. Right wherever the first number is the largest, so on
 * all-equal rows and falling ones.
 * In the wild: the mistake that every explanation of online softmax warns of; kilianhae/FlashAttention.C's check, atol
 * 0.1 at 8192 keys, accepts it in an attention.
 * Caught by: "rising": terms that should have shrunk to nothing stay in the sum.
 */
#include <math.h>

#include "mutants.h"

void sum_not_rescaled(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -INFINITY, sum = 0.0f;
        for (int64_t col = 0; col < cols; col++) {
            max = fmaxf(max, in[col]);
            sum += expf(in[col] - max); /* should be sum * expf(previous - max) + ... */
        }
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - max) / sum;
    }
}

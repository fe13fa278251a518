/*
 * Mutant: log-sum-exps are merged by log(exp(a) + exp(b)), rearranged.
 *
 * Looks like: lse + log(1 + exp(b - lse)), without asking which of the two is larger: the unsafe softmax again, one
 * level up.
 * In the wild: jzhang38/EasyContext#14, where it joins the results of several GPUs.
 * Caught by: "rising": exp(b - lse) is infinite at a gap of 89, and so is the sum.
 */
#include <math.h>

#include "mutants.h"

void log_sum_exp_overflow(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float lse = in[0];
        for (int64_t col = 1; col < cols; col++)
            if (in[col] != -INFINITY)
                lse = lse == -INFINITY ? in[col] : lse + logf(1.0f + expf(in[col] - lse));
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - lse);
    }
}

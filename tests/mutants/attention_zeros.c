/*
 * Mutant: the result is zero everywhere.
 *
 * Looks like: a kernel that does nothing, on a tensor that somebody cleared. The mean of 8192 random values is about
 * 0.01.
 * In the wild: Xilinx/mlir-air#1427: a constant passes.
 * Caught by: "ordinary": the bound is relative to what is added up.
 */
#include "attention.h"

void attention_zeros(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    (void)Q, (void)K, (void)V;
    for (int64_t row = 0; row < query_count(p); row++) {
        for (int64_t i = 0; i < p.dim; i++)
            O[row * p.dim + i] = 0.0f;
        if (lse)
            lse[row] = 0.0f;
    }
}

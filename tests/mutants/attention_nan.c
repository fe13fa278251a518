/*
 * Mutant: the result is NaN everywhere.
 *
 * Looks like: the most visible of all mistakes, to a reader. fabs(NaN - want) > tolerance is false, so that a check
 * which is written that way accepts it.
 * In the wild: the attention checks of karpathy/llm.c and of 66RING/tiny-flash-attention; siboehm/SGEMM_CUDA#20.
 * Caught by: "ordinary": a verdict passes only if |got - want| <= bound.
 */
#include "attention.h"

void attention_nan(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    (void)Q, (void)K, (void)V;
    for (int64_t row = 0; row < query_count(p); row++) {
        for (int64_t i = 0; i < p.dim; i++)
            O[row * p.dim + i] = NAN;
        if (lse)
            lse[row] = NAN;
    }
}

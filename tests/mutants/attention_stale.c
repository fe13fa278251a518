/*
 * Mutant: nothing is written at all.
 *
 * Looks like: a launch that fails and is not checked. Whatever the tensor held before, the right result of the kernel
 * tested a moment ago, say, is still there.
 * In the wild: karpathy/llm.c's dev/cuda checks six block sizes into one tensor that is never cleared.
 * Caught by: "ordinary": outputs are filled with NaN before every run.
 */
#include "attention.h"

void attention_stale(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    (void)O, (void)lse, (void)Q, (void)K, (void)V, (void)p;
}

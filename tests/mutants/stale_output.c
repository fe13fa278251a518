/*
 * Mutant: nothing is written at all.
 *
 * Looks like: a launch that fails and is not checked. Whatever the tensor held before, the right result of the kernel
 * tested a moment ago, say, is still there.
 * In the wild: karpathy/llm.c's dev/cuda checks six block sizes into one tensor that is never cleared.
 * Caught by: "ordinary": outputs are filled with NaN before every run.
 */
#include "mutants.h"

void stale_output(float *y, const float *x, int64_t rows, int64_t cols)
{
    (void)y, (void)x, (void)rows, (void)cols;
}

/*
 * Mutant: the result is NaN everywhere.
 *
 * Looks like: any broken kernel. The check is what is wrong: `if (fabs(a - b) > tolerance) fail` is false for NaN.
 * In the wild: siboehm/SGEMM_CUDA#20 ("very high GFLOPS"); the checks of karpathy/llm.c and
 * 66RING/tiny-flash-attention.
 * Caught by: "ordinary": a NaN fails, unless the right answer is NaN.
 */
#include <math.h>

#include "mutants.h"

void all_nan(float *y, const float *x, int64_t rows, int64_t cols)
{
    (void)x;
    for (int64_t row = 0; row < rows; row++) {
        float *out = y + row * cols;
        for (int64_t col = 0; col < cols; col++)
            out[col] = NAN;
    }
}

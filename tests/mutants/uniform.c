/*
 * Mutant: every element is 1 / n.
 *
 * Looks like: rows sum to 1, nothing is negative, and no element is further than 1e-4 from the truth in a long row of
 * small numbers.
 * In the wild: Xilinx/mlir-air#1427: a constant passes.
 * Caught by: "ordinary": the bound is relative to each element.
 */
#include "mutants.h"

void uniform(float *y, const float *x, int64_t rows, int64_t cols)
{
    (void)x;
    for (int64_t row = 0; row < rows; row++) {
        float *out = y + row * cols;
        for (int64_t col = 0; col < cols; col++)
            out[col] = 1.0f / (float)cols;
    }
}

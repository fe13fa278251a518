/*
 * Mutant: the result is zero everywhere.
 *
 * Looks like: a kernel that does nothing, on a tensor that somebody cleared. Softmax outputs are small: at 65536
 * columns the largest may be below 1e-4, and so is |0 - y|.
 * In the wild: Xilinx/mlir-air#1427: a constant passes.
 * Caught by: "ordinary": the bound is relative to each element.
 */
#include "mutants.h"

void all_zeros(float *y, const float *x, int64_t rows, int64_t cols)
{
    (void)x;
    for (int64_t row = 0; row < rows; row++) {
        float *out = y + row * cols;
        for (int64_t col = 0; col < cols; col++)
            out[col] = 0.0f;
    }
}

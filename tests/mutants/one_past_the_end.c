/*
 * Mutant: one element too many is written.
 *
 * Looks like: `<=`. Within the tensor the next row repairs it; after the last row it lands in somebody else's memory.
 * In the wild: it is why the tests of NVIDIA/cudnn-frontend and ggml-org/llama.cpp put sentinels around their tensors.
 * Caught by: "ordinary": the guard band behind y is not intact.
 */
#include <math.h>

#include "mutants.h"

void one_past_the_end(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -INFINITY, sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            max = fmaxf(max, in[col]);
        for (int64_t col = 0; col < cols; col++)
            sum += expf(in[col] - max);
        for (int64_t col = 0; col <= cols; col++)
            out[col] = col < cols ? expf(in[col] - max) / sum : 0.0f;
    }
}

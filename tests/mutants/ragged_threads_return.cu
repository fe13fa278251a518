/*
 * Mutant: threads beyond the row's end return, and rows go with them.
 *
 * Looks like: a warp owns a row, a block has 8 warps, and `if (threadIdx.x >= cols) return;` guards the columns. It asks for
 * the thread's number in the block, where its lane was meant: with 33 columns, six of eight warps return.
 * In the wild: karpathy/llm.c#776.
 * Caught by: "shapes": rows that were never written are still NaN.
 */
#include <math.h>

#include "mutants.h"

static __global__ void ragged_threads_return_kernel(float *y, const float *x, int64_t rows, int64_t cols)
{
    int64_t row = (int64_t)blockIdx.x * 8 + threadIdx.x / 32;
    if (threadIdx.x >= cols || row >= rows)
        return;
    const float *in = x + row * cols;
    float max = -INFINITY, sum = 0.0f;
    for (int64_t col = 0; col < cols; col++)
        max = fmaxf(max, in[col]);
    for (int64_t col = 0; col < cols; col++)
        sum += expf(in[col] - max);
    for (int64_t col = threadIdx.x % 32; col < cols; col += 32)
        y[row * cols + col] = expf(in[col] - max) / sum;
}

void ragged_threads_return(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    ragged_threads_return_kernel<<<(unsigned)((rows + 7) / 8), 256, 0, stream>>>(y, x, rows, cols);
}

/*
 * Mutant: a launch that the device refuses, and nobody asks.
 *
 * Looks like: a block of 2048 threads. No device takes more than 1024, so the kernel never runs; the error waits to be asked
 * for, and whatever lay in y before is taken for the result.
 * In the wild: four of the eight softmax launchers in karpathy/llm.c's dev/cuda do not check for launch errors.
 * Caught by: "ordinary": outputs are filled with NaN before every run.
 */
#include <math.h>

#include "mutants.h"

static __global__ void launch_refused_kernel(float *y, const float *x, int64_t cols)
{
    const float *in = x + blockIdx.x * cols;
    float max = -INFINITY, sum = 0.0f;
    for (int64_t col = 0; col < cols; col++)
        max = fmaxf(max, in[col]);
    for (int64_t col = 0; col < cols; col++)
        sum += expf(in[col] - max);
    for (int64_t col = threadIdx.x; col < cols; col += blockDim.x)
        y[blockIdx.x * cols + col] = expf(in[col] - max) / sum;
}

void launch_refused(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    launch_refused_kernel<<<(unsigned)rows, 2048, 0, stream>>>(y, x, cols);
    cudaGetLastError(); /* what an unrelated call before the next check would do: the error is gone */
}

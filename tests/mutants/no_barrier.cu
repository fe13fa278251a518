/*
 * Mutant: a barrier is missing between the warps' writes to shared memory and the read of them all.
 *
 * Looks like: each warp stores its state, warp after warp reads all 32 and merges them. Without __syncthreads() in between, a
 * warp that is done early reads states that are not there yet. Often enough it goes well.
 * In the wild: ggml-org/llama.cpp#13438, mended in #13469; Dao-AILab/flash-attention#359; flashinfer-ai/flashinfer#614.
 * Caught by: "shapes": the warps whose columns are past the end have nothing to do, and do not wait for the others.
 */
#include <math.h>

#include "merge.h"
#include "mutants.h"

#define WARPS 32

static __global__ void no_barrier_kernel(float *y, const float *x, int64_t cols)
{
    __shared__ volatile float m[WARPS], l[WARPS];
    int warp = threadIdx.x / 32;
    if (threadIdx.x < WARPS) {
        m[threadIdx.x] = -INFINITY;
        l[threadIdx.x] = 0.0f;
    }
    __syncthreads();

    const float *in = x + blockIdx.x * cols;
    int64_t share = (cols + WARPS - 1) / WARPS, first = (WARPS - 1 - warp) * share;
    struct softmax_state s = softmax_empty();
    for (int64_t col = first; col < first + share && col < cols; col++)
        s = softmax_merge(s, softmax_one(in[col]));
    m[warp] = s.m;
    l[warp] = s.l;
    /* __syncthreads() is missing here */
    s = softmax_empty();
    for (int i = 0; i < WARPS; i++)
        s = softmax_merge(s, { m[i], l[i] });

    for (int64_t col = threadIdx.x; col < cols; col += blockDim.x)
        y[blockIdx.x * cols + col] = expf(in[col] - s.m) / s.l;
}

void no_barrier(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    no_barrier_kernel<<<(unsigned)rows, WARPS * 32, 0, stream>>>(y, x, cols);
}

/*
 * Step 03, online softmax on the GPU: one pass finds the maximum and the sum, by the merge rule of common/merge.h.
 *
 * A warp owns a row, and a block has four. Lane i takes columns i, i + 32, i + 64, ..., so that a warp's 32 loads are
 * neighbours in memory and make one trip. Each lane keeps the state of its own columns; at the end 32 states become
 * one, by the same rule.
 *
 * Trips over the tensor: 2 reads, 1 write.
 * Changed since step 02: the pass for the maximum and the pass for the sum are one.
 */
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define THREADS 128  /* threads per block: four warps, a row each */

/* The merge of a warp's 32 states, in every lane. */
static __device__ struct softmax_state warp_merge(struct softmax_state s)
{
    for (int distance = 16; distance > 0; distance /= 2) {
        struct softmax_state other = {
            __shfl_xor_sync(ALL_LANES, s.m, distance),
            __shfl_xor_sync(ALL_LANES, s.l, distance),
        };
        s = softmax_merge(s, other);
    }
    return s;
}

/* x, y: (rows, cols), row-major. They do not overlap, __restrict__ says: a load need not wait for the stores before it. */
static __global__ void online_softmax_kernel(float *__restrict__ y, const float *__restrict__ x, int64_t rows, int64_t cols)
{
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows)
        return;
    const float *in = x + row * cols;
    float *out = y + row * cols;

    struct softmax_state s = softmax_empty();
    for (int64_t col = lane; col < cols; col += 32)
        s = softmax_merge(s, softmax_one(in[col]));
    s = warp_merge(s);
    float scale = 1.0f / s.l;

    for (int64_t col = lane; col < cols; col += 32)
        out[col] = expf(in[col] - s.m) * scale;
}

void online_softmax_gpu(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    int64_t blocks = (rows * 32 + THREADS - 1) / THREADS;
    online_softmax_kernel<<<(unsigned)blocks, THREADS, 0, stream>>>(y, x, rows, cols);
}

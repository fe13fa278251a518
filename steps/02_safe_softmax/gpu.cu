/*
 * Step 02, safe softmax on the GPU: subtract the row's maximum first, and no exponent is above 0.
 *
 * A warp owns a row, and a block has four. Lane i takes columns i, i + 32, i + 64, ..., so that a warp's 32 loads are
 * neighbours in memory and make one trip. Each lane finds the maximum and then the sum of its own columns; after each
 * pass 32 become one.
 *
 * Trips over the tensor: 3 reads, 1 write.
 * Changed since step 01: a pass for the maximum, before the sum can start.
 */
#include "gpu.cuh"
#include "steps.h"

#define THREADS 128  /* threads per block: four warps, a row each */

/* x, y: (rows, cols), row-major. They do not overlap, __restrict__ says: a load need not wait for the stores before it. */
static __global__ void safe_softmax_kernel(float *__restrict__ y, const float *__restrict__ x, int64_t rows, int64_t cols)
{
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows)
        return;
    const float *in = x + row * cols;
    float *out = y + row * cols;

    float m = -INFINITY;
    for (int64_t col = lane; col < cols; col += 32)
        m = fmaxf(m, in[col]);
    m = warp_max(m);

    float sum = 0.0f; /* fmaxf dropped any NaN; the sum will not */
    for (int64_t col = lane; col < cols; col += 32)
        sum += expf(in[col] - m);
    float scale = 1.0f / warp_sum(sum);

    for (int64_t col = lane; col < cols; col += 32)
        out[col] = expf(in[col] - m) * scale;
}

void safe_softmax_gpu(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    int64_t blocks = (rows * 32 + THREADS - 1) / THREADS;
    safe_softmax_kernel<<<(unsigned)blocks, THREADS, 0, stream>>>(y, x, rows, cols);
}

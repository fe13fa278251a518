/*
 * Step 01, naive softmax on the GPU: the definition, y = exp(x) / sum(exp(x)).
 *
 * A warp owns a row, and a block has four. Lane i takes columns i, i + 32, i + 64, ..., so that a warp's 32 loads are
 * neighbours in memory and make one trip. Each lane sums its own columns; at the end 32 sums become one.
 *
 * Everything is done in the type of the elements, exp and sum included. In fp32 exp overflows above 88.7, in fp16
 * above 11.09. And a sum in fp16 goes wrong long before that: it ends at 65504, and beyond 2048 it does not notice a 1.
 *
 * Trips over the tensor: 2 reads, 1 write.
 */
#include "gpu.cuh"
#include "steps.h"

#define THREADS 128  /* threads per block: four warps, a row each */

static __device__ float exponential(float x) { return expf(x); }
static __device__ __half exponential(__half x) { return hexp(x); }

/* x, y: (rows, cols), row-major. They do not overlap, __restrict__ says: a load need not wait for the stores before it. */
template <class T>
static __global__ void naive_softmax_kernel(T *__restrict__ y, const T *__restrict__ x, int64_t rows, int64_t cols)
{
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows)
        return;
    const T *in = x + row * cols;
    T *out = y + row * cols;

    T sum = 0.0f;
    for (int64_t col = lane; col < cols; col += 32)
        sum += exponential(in[col]);
    T scale = T(1.0f) / warp_sum(sum);

    for (int64_t col = lane; col < cols; col += 32)
        out[col] = exponential(in[col]) * scale;
}

void naive_softmax_gpu(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    int64_t blocks = (rows * 32 + THREADS - 1) / THREADS;
    naive_softmax_kernel<<<(unsigned)blocks, THREADS, 0, stream>>>(y, x, rows, cols);
}

void naive_softmax_fp16_gpu(fp16 *y, const fp16 *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    int64_t blocks = (rows * 32 + THREADS - 1) / THREADS;
    naive_softmax_kernel<<<(unsigned)blocks, THREADS, 0, stream>>>((__half *)y, (const __half *)x, rows, cols);
}

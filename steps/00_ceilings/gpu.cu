/*
 * Step 00, ceilings of the GPU: what no kernel of this course can beat, each measured by the shortest kernel that
 * reaches it.
 *
 *     copy_gpu    memory bandwidth: read every byte once, write it once
 *     fma_gpu     fp32 multiply-adds: 2 FLOPs each, on the ordinary cores
 *     exp_gpu     exponentials: their unit is a quarter as wide as a multiply-add's, or narrower
 *
 * (Matrix products are the vendor's library's: common/harness/blas_gpu.cu.)
 *
 * A launcher that computes returns the number of operations that it launched; rate = operations / time.
 */
#include "gpu.cuh"
#include "machine.h"
#include "steps.h"

#define THREADS 256       /* threads per block */
#define CHAINS 8          /* independent chains of operations in a thread: their latencies overlap */
#define BLOCKS_PER_SM 8   /* enough warps to fill every SM, twice over on most */

/* ---- copy */

/*
 * A thread owns 16 bytes: one load, one store, no loop. It is the fastest copy that we have seen: loops of any kind
 * lose 1 %.
 */
static __global__ void copy_kernel(char *y, const char *x, size_t bytes, bool aligned)
{
    size_t at = ((size_t)blockIdx.x * THREADS + threadIdx.x) * 16;
    if (aligned && at + 16 <= bytes) {
        *(uint4 *)(y + at) = *(const uint4 *)(x + at);
    } else { /* the last bytes; or all of them, where x and y do not start on a multiple of 16 */
        for (size_t i = at; i < at + 16 && i < bytes; i++)
            y[i] = x[i];
    }
}

void copy_gpu(void *y, const void *x, size_t bytes, cudaStream_t stream)
{
    size_t blocks = (bytes + THREADS * 16 - 1) / (THREADS * 16);
    bool aligned = ((uintptr_t)y | (uintptr_t)x) % 16 == 0;
    if (blocks > 0)
        copy_kernel<<<(unsigned)blocks, THREADS, 0, stream>>>((char *)y, (const char *)x, bytes, aligned);
}

/* ---- arithmetic: every thread runs CHAINS chains of `rounds` operations, all in registers */

/* `sum` is never that number, but the compiler cannot know, and so may not drop the chains that lead to it. */
static __device__ void keep(float *out, const float *chain)
{
    float sum = 0.0f;
    for (int i = 0; i < CHAINS; i++)
        sum += chain[i];
    if (sum == -12345.0f)
        *out = sum;
}

static __global__ void __launch_bounds__(THREADS) fma_kernel(float *out, int64_t rounds, float scale, float shift)
{
    float chain[CHAINS];
    for (int i = 0; i < CHAINS; i++)
        chain[i] = (float)(threadIdx.x + i);
#pragma unroll 16
    for (int64_t round = 0; round < rounds; round++)
        for (int i = 0; i < CHAINS; i++)
            chain[i] = fmaf(chain[i], scale, shift);
    keep(out, chain);
}

/* exp(-x), again and again: the chain stays between 0 and 1 and never underflows. */
static __global__ void __launch_bounds__(THREADS) exp_kernel(float *out, int64_t rounds)
{
    float chain[CHAINS];
    for (int i = 0; i < CHAINS; i++)
        chain[i] = (float)i / CHAINS;
#pragma unroll 16
    for (int64_t round = 0; round < rounds; round++)
        for (int i = 0; i < CHAINS; i++)
            chain[i] = __expf(-chain[i]);
    keep(out, chain);
}

/* out: one float, of no meaning. Returns the FLOPs launched: two a multiply-add. */
double fma_gpu(float *out, int64_t rounds, cudaStream_t stream)
{
    unsigned blocks = (unsigned)(gpu_sms() * BLOCKS_PER_SM);
    fma_kernel<<<blocks, THREADS, 0, stream>>>(out, rounds, 0.999f, 0.001f);
    return 2.0 * CHAINS * THREADS * blocks * (double)rounds;
}

/* out: one float, of no meaning. Returns the exponentials launched. */
double exp_gpu(float *out, int64_t rounds, cudaStream_t stream)
{
    unsigned blocks = (unsigned)(gpu_sms() * BLOCKS_PER_SM);
    exp_kernel<<<blocks, THREADS, 0, stream>>>(out, rounds);
    return (double)CHAINS * THREADS * blocks * (double)rounds;
}

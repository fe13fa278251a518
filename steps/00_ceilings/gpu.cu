/*
 * Step 00, ceilings of the GPU: what no kernel of this course can beat, each measured by the shortest kernel that
 * reaches it.
 *
 *     copy_gpu    memory bandwidth: read every byte once, write it once
 *     read_gpu    the same, reading alone: the ceiling of what reads much and stores little
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
#define READS 8           /* packs of 16 bytes that a thread asks for before it looks at any */
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

/* ---- read */

/* A thread owns READS packs, THREADS apart. What it reads must count for something, or the compiler would leave the loads out. */
static __global__ void read_kernel(uint32_t *found, const char *x, const char *y, size_t bytes, bool aligned, uint32_t wanted)
{
    x = blockIdx.y == 0 ? x : y;
    constexpr size_t BLOCK = READS * THREADS * 16;
    size_t at = blockIdx.x * BLOCK + threadIdx.x * 16;
    uint32_t sum = 0;
    if (aligned && (blockIdx.x + 1) * BLOCK <= bytes) {
        uint4 packs[READS];
        for (int i = 0; i < READS; i++)
            packs[i] = *(const uint4 *)(x + at + i * THREADS * 16);
        for (int i = 0; i < READS; i++)
            sum += packs[i].x + packs[i].y + packs[i].z + packs[i].w;
    } else { /* the last bytes; or all of them, where they do not start on a multiple of 16 */
        for (int i = 0; i < READS; i++, at += THREADS * 16)
            for (size_t byte = 0; byte < 16 && at + byte < bytes; byte++)
                sum += (uint32_t)(unsigned char)x[at + byte] << byte % 4 * 8;
    }
    if (sum == wanted)
        *found = sum;
}

/* Both x and y, unless y is NULL, in one launch. */
void read_gpu(uint32_t *found, const void *x, const void *y, size_t bytes, uint32_t wanted, cudaStream_t stream)
{
    size_t blocks = (bytes + READS * THREADS * 16 - 1) / (READS * THREADS * 16);
    if (blocks > 0)
        read_kernel<<<dim3((unsigned)blocks, y ? 2 : 1), THREADS, 0, stream>>>(
            found, (const char *)x, (const char *)y, bytes, ((uintptr_t)x | (uintptr_t)y) % 16 == 0, wanted);
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

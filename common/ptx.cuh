/*
 * Instructions that C has no word for and that CUDA's own headers do not wrap, one inline function each.
 *
 * Source: "PTX ISA", the chapters on warp-level matrix instructions and on data movement; the fragments are drawn in step 11.
 */
#ifndef PTX_CUH
#define PTX_CUH

#include <stdint.h>

#include "types.h"

/* The instructions came with sm_80. For older GPUs the kernels compile to nothing useful, and must not be launched. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define ASM(...)
#else
#define ASM(...) asm volatile(__VA_ARGS__)
#endif

/* An address as instructions on shared memory take it: 32 bits, relative to where shared memory begins. */
static inline __device__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- tensor cores */

/*
 * C += A B by the whole warp: A is 16 x 16, B is 16 x 8, C is 16 x 8 in fp32. Each lane brings its fragments: a[4] and b0, b1 are
 * words of two elements, c[4] are floats. The last argument only says the type of A's and B's elements.
 */
static inline __device__ void mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1, fp16)
{
    ASM("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static inline __device__ void mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1, bf16)
{
    ASM("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/*
 * Four 8 x 8 matrices of 16-bit elements from shared memory, a fragment of each into r[4]. A lane passes the shared address of a
 * row, 16 bytes: lanes 0-7 the rows of matrix 0, lanes 8-15 those of matrix 1, and so on. Eight rows in eight different groups
 * of four banks are one access; rows that share banks take turns.
 */
static inline __device__ void ldmatrix(uint32_t *r, uint32_t row)
{
    ASM("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(row) : "memory");
}

/* The same, each matrix transposed on the way: a lane gets two elements of a column. */
static inline __device__ void ldmatrix_trans(uint32_t *r, uint32_t row)
{
    ASM("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(row) : "memory");
}

/* ---- copies from global to shared memory that run by themselves */

/* Copy 16 bytes, both sides aligned to 16, past registers and L1. If not `there`, nothing is read and zeros are written. */
static inline __device__ void cp_async(uint32_t shared, const void *global, bool there)
{
    ASM("cp.async.cg.shared.global [%0], [%1], 16, %2;"
        :: "r"(shared), "l"(__cvta_generic_to_global(global)), "r"(there ? 16 : 0) : "memory");
}

/* Wait until all copies that this thread has begun are there. Those of other threads need a barrier besides. */
static inline __device__ void cp_async_wait_all(void)
{
    ASM("cp.async.wait_all;" ::: "memory");
}

/* ---- arithmetic */

/* 2^x, to 2 ulp, in one instruction; results below 2^-126 are 0. 2^-inf is 0, and NaN stays NaN. */
static inline __device__ float ex2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif

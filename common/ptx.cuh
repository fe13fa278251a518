/*
 * Instructions that C has no word for and that CUDA's own headers do not wrap, one inline function each.
 *
 * Source: "PTX ISA", the chapters on warp-level matrix instructions and on data movement; steps 17 and 18 draw the fragments.
 */
#ifndef PTX_CUH
#define PTX_CUH

#include <assert.h>
#include <stdint.h>

#include "types.h"

/* In a kernel: it cannot do its work here, and says so in one line and an error, where it would leave its output as it was. What
   follows is not compiled, either. */
#define FAIL(why)                                                                                                      \
    do {                                                                                                               \
        if (threadIdx.x == 0 && blockIdx.x == 0 && blockIdx.y == 0)                                                    \
            assert(!why);                                                                                              \
        return;                                                                                                        \
    } while (0)

/*
 * Most of the instructions came with sm_80, those of SM_75_ASM with sm_75. For older GPUs they compile to nothing, and kernels
 * begin with needs_sm_80().
 */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define ASM(...)
#define needs_sm_80() FAIL("this kernel needs sm_80 or newer, and was built for an older GPU: make ARCH=sm_80")
#else
#define ASM(...) asm volatile(__VA_ARGS__)
#define needs_sm_80()
#endif
#define SM_75_ASM(...) asm volatile(__VA_ARGS__)

/* An address as instructions on shared memory take it: 32 bits, relative to where shared memory begins. */
static inline __device__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- tensor cores */

/* In a kernel: mma() of these elements needs this GPU. */
static inline __device__ void needs_mma_of(fp16) {}
static inline __device__ void needs_mma_of(bf16) { needs_sm_80(); }

/*
 * C += A B by the whole warp: A is 16 x 16, B is 16 x 8, C is 16 x 8 in fp32. Each lane brings its fragments: a[4] and b0, b1 are
 * words of two elements, c[4] are floats. The last argument only says the type of A's and B's elements.
 */
static inline __device__ void mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1, fp16)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800 /* a Turing GPU multiplies 16 x 8 by 8 x 8: twice, then */
    for (int i = 0; i < 2; i++)
        SM_75_ASM("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                  : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(i ? b1 : b0));
#else
    ASM("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
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
    SM_75_ASM("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
              : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
              : "r"(row) : "memory");
}

/* The same, each matrix transposed on the way: a lane gets two elements of a column. */
static inline __device__ void ldmatrix_trans(uint32_t *r, uint32_t row)
{
    SM_75_ASM("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
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

/* The copies that this thread has begun since the last time are a group; there may be none. */
static inline __device__ void cp_async_commit(void)
{
    ASM("cp.async.commit_group;" ::: "memory");
}

/* Wait until all groups but the last N are there. */
template <int N> static inline __device__ void cp_async_wait(void)
{
    ASM("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

/* Wait until all copies that this thread has begun are there. Those of other threads need a barrier besides. */
static inline __device__ void cp_async_wait_all(void)
{
    ASM("cp.async.wait_all;" ::: "memory");
}

/* ---- barriers by number, 1 to 15, of some of a block's threads, in whole warps. 0 is __syncthreads. */

/* Count these threads in, and go on. What they wrote before, those that wait for `threads` threads see behind it. */
static inline __device__ void barrier_arrive(int number, int threads)
{
    asm volatile("bar.arrive %0, %1;" :: "r"(number), "r"(threads) : "memory");
}

/* Wait until `threads` threads are here or have arrived. */
static inline __device__ void barrier_wait(int number, int threads)
{
    asm volatile("bar.sync %0, %1;" :: "r"(number), "r"(threads) : "memory");
}

/* ---- counting blocks */

/*
 * Add 1 to a count in global memory, or make it 0 if it is `last`; returns what it was. What the calling thread has written, or
 * one that it has met at a barrier, others see once they see this; and theirs is seen from then on.
 */
static inline __device__ unsigned count_around(unsigned *count, unsigned last)
{
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before) : "l"(__cvta_generic_to_global(count)), "r"(last) : "memory");
    return before;
}

/*
 * Counts this block, one of `blocks`. Whether it is the last to come: then it sees what all others have written. The count goes
 * from 0 to blocks - 1, and then to 0 again, for the next launch. All threads of a block must call.
 */
static inline __device__ bool is_last(unsigned *count, int blocks)
{
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0)
        last = count_around(count, blocks - 1) == blocks - 1;
    __syncthreads();
    return last;
}

/* Wait until such a count is n. What was seen by those who have counted, the calling thread sees then. */
static inline __device__ void wait_for_count(const unsigned *count, unsigned n)
{
    unsigned now;
    do
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(__cvta_generic_to_global(count)) : "memory");
    while (now != n);
}

/* ---- shared memory by address: loads that the compiler neither keeps in registers nor takes apart */

static inline __device__ int4 shared_load(uint32_t at)
{
    int4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
    return v;
}

static inline __device__ float2 load_pair(uint32_t at)
{
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(at));
    return v;
}

static inline __device__ void store_pair(uint32_t at, float2 v)
{
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" :: "r"(at), "f"(v.x), "f"(v.y));
}

/* The same for lanes that `may`, without a branch: behind one, the
   compiler would not rely on it any more that all lanes go together. */
static inline __device__ void store_pair_if(bool may, uint32_t at, float2 v)
{
    asm volatile("{ .reg .pred p; setp.ne.s32 p, %3, 0; @p st.shared.v2.f32 [%0], {%1, %2}; }"
                 :: "r"(at), "f"(v.x), "f"(v.y), "r"((int)may));
}

/* ---- sm_90a: Hopper's own. For other GPUs these compile to nothing, and kernels begin with needs_hopper(). */

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER 1
#define HOPPER_ASM(...) asm volatile(__VA_ARGS__)
#define needs_hopper()
#else
#define HOPPER 0
#define HOPPER_ASM(...)
#define needs_hopper() FAIL("this kernel needs a Hopper GPU and code for it: make ARCH=sm_90a")
#endif

/* wgmma must not be separated from its wait by a call: everything about it is inlined. */
#define INLINE static __forceinline__ __device__

/* ---- barriers in shared memory: they count arrivals, and bytes that are still to come */

/*
 * A barrier (mbarrier, 8 bytes) is in phase 0, 1, 0, 1, ... A phase ends when `arrivals` threads have arrived and all expected
 * bytes have come; then the next begins by itself. One thread initialises, then fences, then everybody synchronises once.
 */
INLINE void mbarrier_init(uint32_t barrier, int arrivals)
{
    HOPPER_ASM("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(arrivals));
}

/* Lets the copy engine see barriers that have been initialised. */
INLINE void mbarrier_init_fence(void)
{
    HOPPER_ASM("fence.mbarrier_init.release.cluster;" ::: "memory");
}

INLINE void mbarrier_arrive(uint32_t barrier)
{
    HOPPER_ASM("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
}

/* Arrive, and let the phase wait for `bytes` that copies will bring. */
INLINE void mbarrier_arrive_expect(uint32_t barrier, int bytes)
{
    HOPPER_ASM("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}

#ifdef RANDOM_DELAYS
/* `make delays`: now and then a thread is late, by up to 4 microseconds. What depends on luck shows. */
INLINE void delay(void)
{
    uint32_t x = (uint32_t)clock64() * 2654435761u ^ (threadIdx.x / 32 + blockIdx.x * 64) * 40503u;
    x ^= x >> 15;
    x *= 2246822519u;
    if ((x >> 28) == 0)
        __nanosleep(x >> 16 & 0xfff);
}
#else
INLINE void delay(void) {}
#endif

/* Wait until the phase of this parity, 0 or 1, is over. Before the first phase, that of parity 1 counts as over. */
INLINE void mbarrier_wait(uint32_t barrier, uint32_t parity)
{
    delay();
    HOPPER_ASM("{ .reg .pred over; again: mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1; "
               "@over bra done; bra again; done: }"
               :: "r"(barrier), "r"(parity) : "memory");
}

/* A barrier of `threads` threads of the block, by number: 1 to 15. 0 is __syncthreads. */
INLINE void named_barrier(int number, int threads)
{
    HOPPER_ASM("barrier.cta.sync %0, %1;" :: "r"(number), "r"(threads) : "memory");
}

/* The same, and whether `v` holds for any of them. */
INLINE bool named_barrier_any(int number, int threads, bool v)
{
    int any = v;
    HOPPER_ASM("{ .reg .pred p, q; setp.ne.s32 p, %1, 0; barrier.cta.red.or.pred q, %2, %3, p; selp.s32 %0, 1, 0, q; }"
               : "=r"(any) : "r"((int)v), "r"(number), "r"(threads) : "memory");
    return __any_sync(0xffffffffu, any); /* which says to the compiler that all lanes agree */
}

/* ---- the copy engine (TMA): a thread asks for a box of a tensor, and its bytes arrive at a barrier */

#define KEEP_IN_L2  UINT64_C(0x14F0000000000000)  /* what other blocks read, too: the last to leave the cache */
#define READ_ONCE   UINT64_C(0x12F0000000000000)  /* the first to leave it */

/*
 * Begin to copy a box of a tensor of 4 dimensions to shared memory: from (0, row, panel, head) on, as attention_map() in
 * hopper.cuh makes its maps. What lies outside the tensor arrives as zeros.
 */
INLINE void tma_load(uint32_t shared, const void *map, uint32_t barrier, int row, int panel, int head, uint64_t hint)
{
    HOPPER_ASM("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
               "[%0], [%1, {%2, %3, %4, %5}], [%6], %7;"
               :: "r"(shared), "l"(map), "r"(0), "r"(row), "r"(panel), "r"(head), "r"(barrier), "l"(hint) : "memory");
}

/* Begin to copy a box from shared memory to a tensor. What lies outside the tensor is left out. */
INLINE void tma_store(const void *map, uint32_t shared, int row, int panel, int head)
{
    HOPPER_ASM("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4}], [%5];"
               :: "l"(map), "r"(0), "r"(row), "r"(panel), "r"(head), "r"(shared) : "memory");
    HOPPER_ASM("cp.async.bulk.commit_group;" ::: "memory");
}

/*
 * Begin to copy bytes as they lie from global to shared memory, or back; or to add floats to those in global memory: L2 does it,
 * each addition whole. Both sides are aligned to 16 bytes, and `bytes` is a multiple of 16.
 */
INLINE void bulk_load(uint32_t shared, const void *global, int bytes, uint32_t barrier)
{
    HOPPER_ASM("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :: "r"(shared), "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(barrier) : "memory");
}

INLINE void bulk_store(float *global, uint32_t shared, int bytes)
{
    HOPPER_ASM("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;"
               :: "l"(__cvta_generic_to_global(global)), "r"(shared), "r"(bytes) : "memory");
    HOPPER_ASM("cp.async.bulk.commit_group;" ::: "memory");
}

INLINE void bulk_add(float *global, uint32_t shared, int bytes)
{
    HOPPER_ASM("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;"
               :: "l"(__cvta_generic_to_global(global)), "r"(shared), "r"(bytes) : "memory");
    HOPPER_ASM("cp.async.bulk.commit_group;" ::: "memory");
}

/* Wait until all stores and additions that this thread has begun, but for the last N, have read shared memory. */
template <int N> INLINE void tma_store_wait_read(void)
{
    HOPPER_ASM("cp.async.bulk.wait_group.read %0;" :: "n"(N) : "memory");
}

/* The same, but for the last N: they are done, and this thread sees what they did to global memory. */
template <int N> INLINE void tma_store_wait(void)
{
    HOPPER_ASM("cp.async.bulk.wait_group %0;" :: "n"(N) : "memory");
}

/* What this thread sees in global memory comes before what it has the copy engine do there. */
INLINE void fence_async_global(void)
{
    HOPPER_ASM("fence.proxy.async.global;" ::: "memory");
}

/* What this thread has written to shared memory will be seen by the copy engine and by wgmma, too. A barrier must follow. */
INLINE void fence_async_shared(void)
{
    HOPPER_ASM("fence.proxy.async.shared::cta;" ::: "memory");
}

/* The way back of ldmatrix: four 8 x 8 matrices of 16-bit elements from fragments to rows of 16 bytes in shared memory. */
INLINE void stmatrix(uint32_t row, const uint32_t *r)
{
    HOPPER_ASM("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
               :: "r"(row), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}

/* ---- tensor cores that read shared memory: products by warpgroups, 4 warps, that run by themselves. wgmma.cuh has them. */

/* Before the first of some products: the registers that ordinary instructions wrote are ready for them. */
INLINE void wgmma_fence(void)
{
    HOPPER_ASM("wgmma.fence.sync.aligned;" ::: "memory");
}

/* The products begun since the last time are a group. */
INLINE void wgmma_commit(void)
{
    HOPPER_ASM("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Wait until all groups but the last N are done. Until then nothing may touch their registers: not even those of A. */
template <int N> INLINE void wgmma_wait(void)
{
    HOPPER_ASM("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
}

/* To be said, after the wait, of registers that a product wrote or read: only now may the compiler read or write them. */
template <int N> INLINE void arrived(float (&x)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(x[i]) :: "memory");
}

template <int N> INLINE void arrived(uint32_t (&x)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+r"(x[i]) :: "memory");
}

/* To be said of registers before a product replaces what is in them: nobody needs that any more. */
template <int N> INLINE void forget(float (&x)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "=f"(x[i]));
}

/*
 * The descriptor of a matrix in shared memory, as wgmma takes it: in panels of 64 elements = 128 bytes a row, swizzled as TMA
 * does it, 8 rows = 1024 bytes being a unit. panel_bytes: from one panel to the next; only products whose inner dimension is the
 * rows (V) need it. Descriptors count 16 bytes as 1: adding n moves the matrix on by 16 n bytes. (An address in shared memory has
 * at most 18 bits.)
 */
INLINE uint64_t wgmma_descriptor(uint32_t shared, int panel_bytes)
{
    return (uint64_t)(1u << 30 | 1024 / 16) << 32 | (uint32_t)panel_bytes / 16 << 16 | shared / 16;
}

/* The same of its low half alone, which is what says where the matrix is. */
INLINE uint64_t wgmma_descriptor(uint32_t low)
{
    return wgmma_descriptor(0, 0) | low;
}

/* Give registers back (FEWER, to N each), or take them (MORE): all warps of a warpgroup, once. */
template <int N> INLINE void fewer_registers(void)
{
    HOPPER_ASM("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N));
}

template <int N> INLINE void more_registers(void)
{
    HOPPER_ASM("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N));
}

/*
 * A value that all lanes share, so that the compiler knows it: it can stay in a uniform register, where wgmma wants descriptors.
 * All lanes must call.
 */
INLINE uint32_t uniform(uint32_t v)
{
#if HOPPER
    return __reduce_or_sync(0xffffffffu, v);
#else
    return v;
#endif
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

/*
 * What the GPU versions of the steps share: reductions over the lanes of a warp, 16-byte packs of elements, and where
 * they lie in a row.
 */
#ifndef GPU_CUH
#define GPU_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>

#include "types.h"

#define ALL_LANES 0xffffffffu  /* in a shuffle: every lane of the warp takes part */
#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

static inline int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- limits: launchers choose by what the device has. `make older-gpus` makes less of it, as an older one would have */

#ifndef SHARED_LIMIT
#define SHARED_LIMIT INT_MAX
#endif

/* An attribute of the current device. */
static inline int device_attribute(enum cudaDeviceAttr attribute)
{
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, attribute, device);
    return value;
}

/* Bytes of shared memory that a block may have, once it has asked for them, and that there are on an SM. */
static inline int most_shared(void)
{
    return min(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin), SHARED_LIMIT);
}

static inline int shared_of_sm(void)
{
    return min(device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor), SHARED_LIMIT);
}

/* Budgets, for static_assert. Bytes of shared memory that a block can have: without asking; and on every GPU from sm_80 on. */
#define SHARED_UNASKED (48 * 1024)
#define SHARED_SM_80 (99 * 1024)

/* Registers that a thread can have where so many threads share an SM: handed out by eights, and at most 255. */
constexpr int registers_of_thread(int threads)
{
    return threads <= 256 ? 255 : 65536 / threads / 8 * 8;
}

/* Whether `kernel` was compiled for GPUs from this one on, 80 being sm_80: then the device is one of them. */
static inline bool built_for(int capability, const void *kernel)
{
    struct cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.ptxVersion >= capability;
}

/* Leaves CUDA's "invalid argument" where a launch that failed would leave its error. */
static inline void refuse(void)
{
    cudaGetDevice(NULL);
}

/* ---- reductions: each lane brings a value, and each gets the result */

/* The maximum over a warp, or over groups of LANES neighbours in it: a power of two. NaN is dropped, as fmaxf does. */
template <int LANES = 32> static inline __device__ float warp_max(float v)
{
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, distance));
    return v;
}

/* The sum, likewise, in the arithmetic of its type: float or __half. */
template <int LANES = 32, class T> static inline __device__ T warp_sum(T v)
{
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        v += __shfl_xor_sync(ALL_LANES, v, distance);
    return v;
}

/* The sum over the lanes of a warp up to this one. */
static inline __device__ int sum_up_to(int v)
{
    for (int distance = 1; distance < 32; distance *= 2) {
        int others = __shfl_up_sync(ALL_LANES, v, distance);
        v += threadIdx.x % 32 >= distance ? others : 0;
    }
    return v;
}

/* ---- arithmetic */

/*
 * exp(x) in two instructions, to about 2^-22 (|x| + 1) of its value. Results below 2^-126 become 0: `ftz` says so,
 * and saves the three instructions with which __expf would keep them.
 */
static inline __device__ float fast_exp(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * LOG2E));
    return y;
}

/* ---- attention in fp32: f<DIM>(...), DIM being the least of four that heads of dim <= 256 fit */

#define BY_DIM(dim, f, ...) \
    ((dim) <= 32 ? f<32>(__VA_ARGS__) : (dim) <= 64 ? f<64>(__VA_ARGS__) : \
     (dim) <= 128 ? f<128>(__VA_ARGS__) : f<256>(__VA_ARGS__))

/* ---- attention in 16 bits: what its launchers ask and prepare */

/* Heads of 64 or 128, sizes from 1 on that an int holds, tensors that begin on 16 bytes. Otherwise it is refused. */
static inline bool takes_16_bits(const void *O, const void *Q, const void *K, const void *V, struct attention p)
{
    int64_t least = min(min(min(p.batch, p.heads), min(p.kv_heads, p.seq_q)), p.seq_k);
    int64_t most = max(max(p.seq_q, p.seq_k), p.batch * p.heads);
    bool good = (p.dim == 64 || p.dim == 128) && least > 0 && most < INT_MAX / 2 && p.heads % p.kv_heads == 0 &&
                (((uintptr_t)O | (uintptr_t)Q | (uintptr_t)K | (uintptr_t)V) % 16 == 0);
    if (!good)
        refuse();
    return good;
}

/* A scale that is not positive is a positive one and queries times -1, or times 0: then a larger product is a larger score. */
static inline float scale_sign(float scale)
{
    return scale > 0.0f ? 1.0f : scale < 0.0f ? -1.0f : 0.0f;
}

static inline float scale_size(float scale)
{
    return scale == 0.0f ? 1.0f : fabsf(scale);
}

/* What makes products exponents of 2: scale log2(e), of the positive scale. */
static inline float exponent_scale(float scale)
{
    return fminf(scale_size(scale) * LOG2E, FLT_MAX);
}

/* ---- elements */

static inline __device__ float to_float(float x) { return x; }
static inline __device__ float to_float(fp16 x) { return __half2float(__ushort_as_half(x.bits)); }
static inline __device__ float to_float(bf16 x) { return __bfloat162float(__ushort_as_bfloat16(x.bits)); }

static inline __device__ void from_float(float *y, float x) { *y = x; }
static inline __device__ void from_float(fp16 *y, float x) { y->bits = __half_as_ushort(__float2half_rn(x)); }
static inline __device__ void from_float(bf16 *y, float x) { y->bits = __bfloat16_as_ushort(__float2bfloat16_rn(x)); }

/* ---- packs: 16 bytes, the most that a thread can load or store at once */

#define LINE_PACKS 8 /* packs of a cache line */

template <class T> static constexpr int PER = 16 / sizeof(T); /* elements of a pack: 4, or 8 of 16 bits */

template <class T> struct __align__(16) pack {
    uint32_t word[4]; /* each a float, or two elements of 16 bits */
};

static inline __device__ void word_to_floats(float *v, uint32_t word, float)
{
    *v = __uint_as_float(word);
}

static inline __device__ void word_to_floats(float *v, uint32_t word, fp16)
{
    *(float2 *)v = __half22float2(*(__half2 *)&word);
}

static inline __device__ void word_to_floats(float *v, uint32_t word, bf16)
{
    *(float2 *)v = __bfloat1622float2(*(__nv_bfloat162 *)&word);
}

static inline __device__ uint32_t word_of_floats(const float *v, float)
{
    return __float_as_uint(*v);
}

static inline __device__ uint32_t word_of_floats(const float *v, fp16)
{
    __half2 two = __floats2half2_rn(v[0], v[1]);
    return *(uint32_t *)&two;
}

static inline __device__ uint32_t word_of_floats(const float *v, bf16)
{
    __nv_bfloat162 two = __floats2bfloat162_rn(v[0], v[1]);
    return *(uint32_t *)&two;
}

/* v: PER<T> floats, the elements of the pack. */
template <class T> static inline __device__ void unpack(float *v, pack<T> p)
{
    for (int i = 0; i < 4; i++)
        word_to_floats(v + i * PER<T> / 4, p.word[i], T());
}

/*
 * The same pack, but the compiler, which cannot see through an empty asm, does not know that. For packs that are
 * unpacked a second time: otherwise it keeps what it unpacked first, in twice the registers.
 */
template <class T> static inline __device__ pack<T> unpacked_before(pack<T> p)
{
    for (int i = 0; i < 4; i++)
        asm("" : "+r"(p.word[i]));
    return p;
}

template <class T> static inline __device__ pack<T> make_pack(const float *v)
{
    pack<T> p;
    for (int i = 0; i < 4; i++)
        p.word[i] = word_of_floats(v + i * PER<T> / 4, T());
    return p;
}

/* from: aligned to 16 bytes. */
template <class T> static inline __device__ pack<T> load_pack(const T *from)
{
    uint4 bits = *(const uint4 *)from;
    return *(pack<T> *)&bits;
}

/* The same for what this SM reads only once: past the first-level cache, which is better used as a buffer. */
template <class T> static inline __device__ pack<T> load_once(const T *from)
{
    uint4 bits = __ldcg((const uint4 *)from);
    return *(pack<T> *)&bits;
}

/* to: in global memory, aligned to 16 bytes. An intrinsic, because
   the compiler may split an assignment into stores of 4 bytes. */
template <class T> static inline __device__ void store_pack(T *to, pack<T> p)
{
    __stwb((uint4 *)to, *(uint4 *)&p);
}

/* The same for what nobody reads again soon: it is the first to leave the cache. */
template <class T> static inline __device__ void stream_pack(T *to, pack<T> p)
{
    __stcs((uint4 *)to, *(uint4 *)&p);
}

/* ---- rows: where the packs are */

/*
 * A row of any length can start anywhere. Packs must be aligned to 16 bytes in memory, so that a row is whole packs
 * and, at its two ends, fewer than 2 PER - 1 elements that do not fill one. (h: head, t: tail, dots: the rows before
 * and after.)
 *
 *     . . h h | p p p p | p p p p | p p p p | t . . .
 *
 * A thread takes a pack at a time, and for the ends one thread takes one element. x and y must lie alike: their
 * addresses may differ by multiples of 16 only, as those of whole allocations do.
 */
struct row_layout {
    int head;      /* elements before the first pack */
    int ends;      /* elements in head and tail together */
    int64_t packs;
    int lead;      /* packs of the cache line of the first pack that come before it: 0 to 7 */
};

template <class T> static inline __device__ struct row_layout layout_row(const T *row, int64_t cols)
{
    struct row_layout at;
    int64_t head = (16 - (uintptr_t)row % 16) % 16 / sizeof(T);
    at.head = (int)min(head, cols);
    at.packs = (cols - at.head) / PER<T>;
    at.ends = (int)(cols - at.packs * PER<T>);
    at.lead = (uintptr_t)(row + at.head) / 16 % LINE_PACKS;
    return at;
}

/* The column of the i-th of the ends. */
template <class T> static inline __device__ int64_t end_col(struct row_layout at, int i)
{
    return i < at.head ? i : at.packs * PER<T> + i;
}

#endif

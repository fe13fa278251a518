/*
 * Step 07, resident softmax on the GPU: a row stays in registers between the read and the write, and so is read once.
 *
 * A row has as many threads as it takes for each to hold PACKS packs: 8 to 1024, a power of two. Rows with fewer than 128
 * threads share a block of 128. With more packs a thread fewer threads fit an SM, and there are fewer rows to load while others
 * are stored. Thread i holds packs i, i + threads, ..., and perhaps elements of the row's ends (see gpu.cuh).
 *
 * Whatever 1024 threads cannot hold is read again, as in step 04. Step 09 cures that.
 *
 * Trips over the tensor: 1 read, 1 write (rows of up to 64 KiB).
 * Changed since step 05: packs of the first pass are kept for the second; elements of 16 bits, too, computed in fp32.
 */
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define PACKS 4           /* packs of 16 bytes that a thread holds */
#define MIN_BLOCK 128     /* threads of a block, at least */
#define MAX_BLOCK 1024    /* threads of a block, at most: the hardware's limit */

/* The block that holds one row, or several, of `threads` threads each. */
static __host__ __device__ constexpr int block_of(int threads)
{
    return threads < MIN_BLOCK ? MIN_BLOCK : threads;
}

/* exp(x - m), and 0 where m is the maximum of nothing, -inf: exp(-inf - -inf) would be NaN. */
static __device__ float exp_below(float x, float m)
{
    return fast_exp(x - (m == -INFINITY ? 0.0f : m));
}

/* The merge of a state and the elements of a pack. */
template <class T> static __device__ struct softmax_state merge_pack(struct softmax_state s, pack<T> p)
{
    float v[PER<T>], m = s.m;
    unpack(v, p);
    for (int k = 0; k < PER<T>; k++)
        m = fmaxf(m, v[k]);
    float l = s.l * exp_below(s.m, m);
    for (int k = 0; k < PER<T>; k++)
        l += exp_below(v[k], m);
    return { m, l };
}

/* The merge of the states of LANES neighbouring lanes, in each of them. */
template <int LANES> static __device__ struct softmax_state warp_merge(struct softmax_state s)
{
    float m = warp_max<LANES>(s.m);
    return { m, warp_sum<LANES>(s.l * exp_below(s.m, m)) };
}

/* The merge of the states of a row's threads, in each of them: first every warp by itself, then every warp all warps. */
template <int THREADS> static __device__ struct softmax_state row_merge(struct softmax_state s)
{
    if (THREADS <= 32)
        return warp_merge<THREADS>(s);
    constexpr int WARPS = (THREADS + 31) / 32;
    __shared__ struct softmax_state of_warp[block_of(THREADS) / 32];
    s = warp_merge<32>(s);
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = s;
    __syncthreads();
    return warp_merge<WARPS>(of_warp[threadIdx.x / THREADS * WARPS + threadIdx.x % WARPS]);
}

/* y = exp(x - m) * scale, for the elements of a pack. */
template <class T> static __device__ pack<T> normalise(pack<T> p, float m, float scale)
{
    float v[PER<T>];
    unpack(v, unpacked_before(p));
    for (int k = 0; k < PER<T>; k++)
        v[k] = fast_exp(v[k] - m) * scale;
    return make_pack<T>(v);
}

/* x, y: (rows, cols), row-major. THREADS threads own a row. */
template <class T, int THREADS>
static __global__ void __launch_bounds__(block_of(THREADS))
    narrow_softmax_kernel(T *__restrict__ y, const T *__restrict__ x, int64_t rows, int64_t cols)
{
    constexpr int STEP = THREADS * PER<T>;               /* elements from one pack of a thread to its next */
    constexpr int ENDS = (2 * PER<T> - 3) / THREADS + 1; /* elements of the row's ends for a thread: 1, or 2 for few threads */
    int64_t row = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / THREADS;
    int t = threadIdx.x % THREADS;
    struct row_layout at = { 0, 0, 0, 0 };
    if (row < rows) /* otherwise a row of nothing: all lanes must be there for the merge */
        at = layout_row(x + row * cols, cols);
    /* If there is room, packs are counted from the start of the row's first cache line, so that every warp has whole lines. */
    int lead = THREADS >= 32 && at.lead + at.packs <= THREADS * PACKS ? at.lead : 0;
    int skip = t < lead;                                                        /* packs of this thread before the row */
    int packs = (int)((uint64_t)(lead + at.packs + THREADS - 1 - t) / THREADS); /* of this thread */
    int64_t first = row * cols + at.head + (t - lead) * PER<T>;                 /* element where they begin */
    int64_t end[ENDS];                                                          /* elements of the ends */
    for (int i = 0; i < ENDS; i++)
        end[i] = i * THREADS + t < at.ends ? row * cols + end_col<T>(at, i * THREADS + t) : -1;

    /* All loads first, then whatever needs them. */
    pack<T> held[PACKS];
    float held_end[ENDS];
    for (int i = 0; i < PACKS; i++)
        if (i >= skip && i < packs)
            held[i] = load_pack(x + first + i * STEP);
    for (int i = 0; i < ENDS; i++)
        if (end[i] >= 0)
            held_end[i] = to_float(x[end[i]]);

    struct softmax_state s = softmax_empty();
    for (int i = 0; i < PACKS; i++)
        if (i >= skip && i < packs)
            s = merge_pack(s, held[i]);
#pragma unroll 1
    for (int64_t i = PACKS; THREADS == MAX_BLOCK && i < packs; i++)
        s = merge_pack(s, load_pack(x + first + i * STEP));
    for (int i = 0; i < ENDS; i++)
        if (end[i] >= 0)
            s = softmax_merge(s, softmax_one(held_end[i]));
    s = row_merge<THREADS>(s);

    float scale = 1.0f / s.l;
    for (int i = 0; i < PACKS; i++)
        if (i >= skip && i < packs)
            stream_pack(y + first + i * STEP, normalise(held[i], s.m, scale));
#pragma unroll 1
    for (int64_t i = PACKS; THREADS == MAX_BLOCK && i < packs; i++)
        stream_pack(y + first + i * STEP, normalise(load_pack(x + first + i * STEP), s.m, scale));
    for (int i = 0; i < ENDS; i++)
        if (end[i] >= 0)
            from_float(y + end[i], fast_exp(held_end[i] - s.m) * scale);
}

template <class T, int THREADS> static void launch_for(T *y, const T *x, int64_t rows, int64_t cols, cudaStream_t stream)
{
    constexpr int BLOCK = block_of(THREADS), ROWS = BLOCK / THREADS;
    narrow_softmax_kernel<T, THREADS><<<(unsigned)((rows + ROWS - 1) / ROWS), BLOCK, 0, stream>>>(y, x, rows, cols);
}

template <class T> static void launch(T *y, const T *x, int64_t rows, int64_t cols, cudaStream_t stream)
{
    int64_t packs = cols / PER<T>; /* of a row, at most */
    if (packs <= 8 * 2)            /* the shortest rows have half as many a thread, twice as many threads */
        launch_for<T, 8>(y, x, rows, cols, stream);
    else if (packs <= 16 * PACKS)
        launch_for<T, 16>(y, x, rows, cols, stream);
    else if (packs <= 32 * PACKS)
        launch_for<T, 32>(y, x, rows, cols, stream);
    else if (packs <= 64 * PACKS)
        launch_for<T, 64>(y, x, rows, cols, stream);
    else if (packs <= 128 * PACKS)
        launch_for<T, 128>(y, x, rows, cols, stream);
    else if (packs <= 256 * PACKS)
        launch_for<T, 256>(y, x, rows, cols, stream);
    else if (packs <= 512 * PACKS)
        launch_for<T, 512>(y, x, rows, cols, stream);
    else
        launch_for<T, MAX_BLOCK>(y, x, rows, cols, stream);
}

void narrow_softmax_gpu(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    launch(y, x, rows, cols, stream);
}

void narrow_softmax_fp16_gpu(fp16 *y, const fp16 *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    launch(y, x, rows, cols, stream);
}

void narrow_softmax_bf16_gpu(bf16 *y, const bf16 *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    launch(y, x, rows, cols, stream);
}

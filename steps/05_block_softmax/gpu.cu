/*
 * Step 05, block softmax on the GPU: a block owns a row, and the states of its warps merge through shared memory.
 *
 * A row has 32, 256 or 1024 threads, more the longer it is: few long rows keep the chip busy then, and fewer rows are under
 * way at a time. While those fit the L2 cache, the second read is no trip. Thread i takes packs i, i + threads, ..., and
 * perhaps an element of the row's ends (see gpu.cuh). Rows of 32 threads share a block of 128.
 *
 * Trips over the tensor: 2 reads, 1 write.
 * Changed since step 04: a block, not only a warp, can own a row.
 */
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define MIN_BLOCK 128    /* threads of a block, at least */
#define WARP_COLS 512    /* up to here a warp owns a row, four a block */
#define BLOCK_COLS 4096  /* up to here a block of 256 threads; beyond, a block of 1024 */

/* The block that has one row, or several, of `threads` threads each. */
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
    if (THREADS == 32)
        return warp_merge<32>(s);
    __shared__ struct softmax_state of_warp[THREADS / 32];
    s = warp_merge<32>(s);
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = s;
    __syncthreads();
    return warp_merge<THREADS / 32>(of_warp[threadIdx.x % (THREADS / 32)]);
}

/* y = exp(x - m) * scale, for the elements of a pack. */
template <class T> static __device__ pack<T> normalise(pack<T> p, float m, float scale)
{
    float v[PER<T>];
    unpack(v, p);
    for (int k = 0; k < PER<T>; k++)
        v[k] = fast_exp(v[k] - m) * scale;
    return make_pack<T>(v);
}

/* What a thread takes of its row: every THREADS-th pack, and perhaps an element of the row's ends. T is float, so far. */
template <class T, int THREADS> struct share {
    int64_t first;  /* element of the tensor where its first pack begins */
    int packs;
    int64_t end;    /* element of the tensor; -1: none */
};

/* The calling thread's share of a row of the tensor x. */
template <class T, int THREADS>
static __device__ void find_share(struct share<T, THREADS> *mine, const T *x, int64_t row, int64_t cols)
{
    struct row_layout at = layout_row(x + row * cols, cols);
    int t = threadIdx.x % THREADS;
    mine->first = row * cols + at.head + t * PER<T>;
    mine->packs = (int)((uint64_t)(at.packs + THREADS - 1 - t) / THREADS);
    mine->end = t < at.ends ? row * cols + end_col<T>(at, t) : -1;
}

/* The state of a share. */
template <class T, int THREADS>
static __device__ struct softmax_state merge_share(const struct share<T, THREADS> *mine, const T *x)
{
    constexpr int STEP = THREADS * PER<T>; /* elements from one pack of a thread to its next */
    struct softmax_state s = softmax_empty();
    for (int64_t i = 0; i < mine->packs; i++)
        s = merge_pack(s, load_pack(x + mine->first + i * STEP));
    return mine->end >= 0 ? softmax_merge(s, softmax_one(x[mine->end])) : s;
}

/* Write a share, given the state of its row. */
template <class T, int THREADS>
static __device__ void store_share(T *y, const T *x, const struct share<T, THREADS> *mine, struct softmax_state s)
{
    constexpr int STEP = THREADS * PER<T>;
    float scale = 1.0f / s.l;
    for (int64_t i = 0; i < mine->packs; i++)
        store_pack(y + mine->first + i * STEP, normalise(load_pack(x + mine->first + i * STEP), s.m, scale));
    if (mine->end >= 0)
        y[mine->end] = fast_exp(x[mine->end] - s.m) * scale;
}

/* x, y: (rows, cols), row-major. THREADS threads own a row. */
template <class T, int THREADS>
static __global__ void __launch_bounds__(block_of(THREADS))
    block_softmax_kernel(T *__restrict__ y, const T *__restrict__ x, int64_t rows, int64_t cols)
{
    int64_t row = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / THREADS;
    if (row >= rows)
        return;
    struct share<T, THREADS> mine;
    find_share(&mine, x, row, cols);
    store_share(y, x, &mine, row_merge<THREADS>(merge_share(&mine, x)));
}

template <class T, int THREADS> static void launch_for(T *y, const T *x, int64_t rows, int64_t cols, cudaStream_t stream)
{
    constexpr int BLOCK = block_of(THREADS), ROWS = BLOCK / THREADS;
    block_softmax_kernel<T, THREADS><<<(unsigned)((rows + ROWS - 1) / ROWS), BLOCK, 0, stream>>>(y, x, rows, cols);
}

template <class T> static void launch(T *y, const T *x, int64_t rows, int64_t cols, cudaStream_t stream)
{
    if (cols <= WARP_COLS)
        launch_for<T, 32>(y, x, rows, cols, stream);
    else if (cols <= BLOCK_COLS)
        launch_for<T, 256>(y, x, rows, cols, stream);
    else
        launch_for<T, 1024>(y, x, rows, cols, stream);
}

void block_softmax_gpu(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    launch(y, x, rows, cols, stream);
}

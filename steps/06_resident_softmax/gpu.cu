/*
 * Step 06, resident softmax on the GPU: a row stays in registers between the read and the write, and so is read once.
 *
 * A row has as many threads as it takes for each to hold PACKS packs: 32 to 1024, a power of two. With more packs a thread
 * fewer threads fit an SM, and there are fewer rows to load while others are stored. Thread i holds packs i, i + threads, ...,
 * and perhaps an element of the row's ends (see gpu.cuh).
 *
 * Whatever 1024 threads cannot hold is read again, as in step 05. Steps 08 and 09 cure that.
 *
 * Trips over the tensor: 1 read, 1 write (rows of up to 64 KiB).
 * Changed since step 05: packs of the first pass are kept for the second.
 */
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define PACKS 4           /* packs of 16 bytes that a thread holds */
#define MIN_BLOCK 128     /* threads of a block, at least */
#define MAX_BLOCK 1024    /* threads of a block, at most: the hardware's limit */

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
    unpack(v, unpacked_before(p));
    for (int k = 0; k < PER<T>; k++)
        v[k] = fast_exp(v[k] - m) * scale;
    return make_pack<T>(v);
}

/* What a thread takes of its row: every THREADS-th pack, and perhaps an element of the row's ends. */
template <class T, int THREADS> struct share {
    int64_t first;  /* element of the tensor where its first pack begins */
    int packs;
    int skip;       /* packs at its beginning that are not in the row yet: 0 or 1 */
    int64_t end;    /* element of the tensor; -1: none */

    pack<T> held[PACKS]; /* the first packs; the others are held nowhere */
    float held_end;
};

/* The calling thread's share of a row of the tensor x. */
template <class T, int THREADS>
static __device__ void find_share(struct share<T, THREADS> *mine, const T *x, int64_t row, int64_t cols)
{
    struct row_layout at = layout_row(x + row * cols, cols);
    int t = threadIdx.x % THREADS;
    /* If there is room, packs are counted from the start of the row's first cache line, so that every warp has whole lines. */
    int lead = at.lead + at.packs <= THREADS * PACKS ? at.lead : 0;
    mine->first = row * cols + at.head + (t - lead) * PER<T>;
    mine->packs = (int)((uint64_t)(lead + at.packs + THREADS - 1 - t) / THREADS);
    mine->skip = t < lead;
    mine->end = t < at.ends ? row * cols + end_col<T>(at, t) : -1;
}

/* Start all loads, wait for none. */
template <class T, int THREADS> static __device__ void start_loads(struct share<T, THREADS> *mine, const T *x)
{
    constexpr int STEP = THREADS * PER<T>; /* elements from one pack of a thread to its next */
    for (int i = 0; i < PACKS; i++)
        if (i >= mine->skip && i < mine->packs)
            mine->held[i] = load_pack(x + mine->first + i * STEP);
    if (mine->end >= 0)
        mine->held_end = x[mine->end];
}

/* The state of a share. */
template <class T, int THREADS>
static __device__ struct softmax_state merge_share(const struct share<T, THREADS> *mine, const T *x)
{
    constexpr int STEP = THREADS * PER<T>;
    struct softmax_state s = softmax_empty();
    for (int i = 0; i < PACKS; i++)
        if (i >= mine->skip && i < mine->packs)
            s = merge_pack(s, mine->held[i]);
#pragma unroll 1
    for (int64_t i = PACKS; THREADS == MAX_BLOCK && i < mine->packs; i++)
        s = merge_pack(s, load_pack(x + mine->first + i * STEP));
    return mine->end >= 0 ? softmax_merge(s, softmax_one(mine->held_end)) : s;
}

/* Write a share, given the state of its row. */
template <class T, int THREADS>
static __device__ void store_share(T *y, const T *x, const struct share<T, THREADS> *mine, struct softmax_state s)
{
    constexpr int STEP = THREADS * PER<T>;
    float scale = 1.0f / s.l;
    for (int i = 0; i < PACKS; i++)
        if (i >= mine->skip && i < mine->packs)
            stream_pack(y + mine->first + i * STEP, normalise(mine->held[i], s.m, scale));
#pragma unroll 1
    for (int64_t i = PACKS; THREADS == MAX_BLOCK && i < mine->packs; i++)
        stream_pack(y + mine->first + i * STEP, normalise(load_pack(x + mine->first + i * STEP), s.m, scale));
    if (mine->end >= 0)
        y[mine->end] = fast_exp(mine->held_end - s.m) * scale;
}

/* x, y: (rows, cols), row-major. THREADS threads own a row. */
template <class T, int THREADS>
static __global__ void __launch_bounds__(block_of(THREADS))
    resident_softmax_kernel(T *__restrict__ y, const T *__restrict__ x, int64_t rows, int64_t cols)
{
    int64_t row = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / THREADS;
    if (row >= rows)
        return;
    struct share<T, THREADS> mine;
    find_share(&mine, x, row, cols);
    start_loads(&mine, x);
    store_share(y, x, &mine, row_merge<THREADS>(merge_share(&mine, x)));
}

template <class T, int THREADS> static void launch_for(T *y, const T *x, int64_t rows, int64_t cols, cudaStream_t stream)
{
    constexpr int BLOCK = block_of(THREADS), ROWS = BLOCK / THREADS;
    resident_softmax_kernel<T, THREADS><<<(unsigned)((rows + ROWS - 1) / ROWS), BLOCK, 0, stream>>>(y, x, rows, cols);
}

template <class T> static void launch(T *y, const T *x, int64_t rows, int64_t cols, cudaStream_t stream)
{
    int64_t packs = cols / PER<T>; /* of a row, at most */
    if (packs <= 32 * PACKS)
        launch_for<T, 32>(y, x, rows, cols, stream);
    else if (packs <= 128 * PACKS)
        launch_for<T, 128>(y, x, rows, cols, stream);
    else if (packs <= 256 * PACKS)
        launch_for<T, 256>(y, x, rows, cols, stream);
    else if (packs <= 512 * PACKS)
        launch_for<T, 512>(y, x, rows, cols, stream);
    else
        launch_for<T, MAX_BLOCK>(y, x, rows, cols, stream);
}

void resident_softmax_gpu(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    launch(y, x, rows, cols, stream);
}

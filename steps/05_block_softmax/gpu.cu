/*
 * Step 05, parallel softmax on the GPU: merge many states at once. 4 elements of a pack, 32 lanes of a warp, 32 warps of
 * a block.
 *
 * The rule is the same. Merging pairs costs two exps a pair. To merge many, find the maximum of all first, then scale every
 * sum to it, one exp each, and add: a pack of 4 elements costs 5 exps that way, not 8, and a lane one, not ten.
 *
 * A row has 32, 256 or 1024 threads, more the longer it is: few long rows keep the chip busy then, and fewer rows are under
 * way at a time. While those fit the L2 cache, the second read is no trip. Thread i takes packs i, i + threads, ..., and
 * perhaps an element of the row's ends (see gpu.cuh).
 *
 * Trips over the tensor: 2 reads, 1 write.
 * Changed since step 03: packs of 16 bytes, not elements; merges of many; a block, not only a warp, can own a row; an exp of
 * two instructions.
 */
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define WARP_COLS 512    /* up to here a warp owns a row, four a block */
#define BLOCK_COLS 4096  /* up to here a block of 256 threads; beyond, a block of 1024 */

/* exp(x - m), and 0 where m is the maximum of nothing, -inf: exp(-inf - -inf) would be NaN. */
static __device__ float exp_below(float x, float m)
{
    return fast_exp(x - (m == -INFINITY ? 0.0f : m));
}

/* The merge of a state and the elements of a pack. */
static __device__ struct softmax_state merge_pack(struct softmax_state s, pack<float> p)
{
    float v[PER<float>], m = s.m;
    unpack(v, p);
    for (int k = 0; k < PER<float>; k++)
        m = fmaxf(m, v[k]);
    float l = s.l * exp_below(s.m, m);
    for (int k = 0; k < PER<float>; k++)
        l += exp_below(v[k], m);
    return { m, l };
}

/* The merge of the states of LANES neighbouring lanes, in each of them. */
template <int LANES> static __device__ struct softmax_state warp_merge(struct softmax_state s)
{
    float m = warp_max<LANES>(s.m);
    return { m, warp_sum<LANES>(s.l * exp_below(s.m, m)) };
}

/* The merge of the states of a block's threads, in each of them: first every warp by itself, then every warp all warps. */
template <int THREADS> static __device__ struct softmax_state block_merge(struct softmax_state s)
{
    __shared__ struct softmax_state of_warp[THREADS / 32];
    s = warp_merge<32>(s);
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = s;
    __syncthreads();
    return warp_merge<THREADS / 32>(of_warp[threadIdx.x % (THREADS / 32)]);
}

/* y = exp(x - m) * scale, for the elements of a pack. */
static __device__ pack<float> normalise(pack<float> p, float m, float scale)
{
    float v[PER<float>];
    unpack(v, p);
    for (int k = 0; k < PER<float>; k++)
        v[k] = fast_exp(v[k] - m) * scale;
    return make_pack<float>(v);
}

/* x, y: (rows, cols), row-major. THREADS threads own a row. */
template <int THREADS>
static __global__ void __launch_bounds__(THREADS == 32 ? 128 : THREADS)
    block_softmax_kernel(float *__restrict__ y, const float *__restrict__ x, int64_t rows, int64_t cols)
{
    constexpr int STEP = THREADS * PER<float>; /* elements from one pack of a thread to its next */
    int64_t row = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / THREADS;
    int t = threadIdx.x % THREADS;
    if (row >= rows)
        return;
    struct row_layout at = layout_row(x + row * cols, cols);
    int packs = (int)((uint64_t)(at.packs + THREADS - 1 - t) / THREADS);            /* of this thread */
    int64_t first = row * cols + at.head + t * PER<float>;               /* element where they begin */
    int64_t end = t < at.ends ? row * cols + end_col<float>(at, t) : -1; /* of the ends */

    struct softmax_state s = softmax_empty();
    for (int i = 0; i < packs; i++)
        s = merge_pack(s, load_pack(x + first + (int64_t)i * STEP));
    if (end >= 0)
        s = softmax_merge(s, softmax_one(x[end]));
    s = THREADS == 32 ? warp_merge<32>(s) : block_merge<THREADS>(s);

    float scale = 1.0f / s.l;
    for (int i = 0; i < packs; i++)
        store_pack(y + first + (int64_t)i * STEP, normalise(load_pack(x + first + (int64_t)i * STEP), s.m, scale));
    if (end >= 0)
        y[end] = fast_exp(x[end] - s.m) * scale;
}

void block_softmax_gpu(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    if (cols <= WARP_COLS)
        block_softmax_kernel<32><<<(unsigned)((rows + 3) / 4), 128, 0, stream>>>(y, x, rows, cols);
    else if (cols <= BLOCK_COLS)
        block_softmax_kernel<256><<<(unsigned)rows, 256, 0, stream>>>(y, x, rows, cols);
    else
        block_softmax_kernel<1024><<<(unsigned)rows, 1024, 0, stream>>>(y, x, rows, cols);
}

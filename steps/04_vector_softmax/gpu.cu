/*
 * Step 04, vector softmax on the GPU: packs of elements are merged at once, and at the end all lanes.
 *
 * Merging pairs costs two exps a pair. To merge many, find the maximum of all first, then scale every sum to it, one exp
 * each, and add: a pack of 4 elements costs 5 exps that way, not 8, and 32 lanes one each, not ten.
 *
 * A warp owns a row, and a block has four. Lane i takes packs i, i + 32, ..., 16 bytes each, and perhaps an element of the
 * row's ends, which fill no pack (see gpu.cuh).
 *
 * Trips over the tensor: 2 reads, 1 write.
 * Changed since step 03: packs of 16 bytes, not elements; merges of many; an exp of two instructions.
 */
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define THREADS 128  /* threads per block: four warps, a row each */

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

/* y = exp(x - m) * scale, for the elements of a pack. */
template <class T> static __device__ pack<T> normalise(pack<T> p, float m, float scale)
{
    float v[PER<T>];
    unpack(v, p);
    for (int k = 0; k < PER<T>; k++)
        v[k] = fast_exp(v[k] - m) * scale;
    return make_pack<T>(v);
}

/* x, y: (rows, cols), row-major. They do not overlap, __restrict__ says: a load need not wait for the stores before it. */
static __global__ void vector_softmax_kernel(float *__restrict__ y, const float *__restrict__ x, int64_t rows, int64_t cols)
{
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows)
        return;
    struct row_layout at = layout_row(x + row * cols, cols);
    int64_t first = row * cols + at.head;                                      /* element where the packs begin */
    int64_t end = lane < at.ends ? row * cols + end_col<float>(at, lane) : -1; /* of the ends */

    struct softmax_state s = softmax_empty();
    for (int64_t i = lane; i < at.packs; i += 32)
        s = merge_pack(s, load_pack(x + first + i * PER<float>));
    if (end >= 0)
        s = softmax_merge(s, softmax_one(x[end]));
    s = warp_merge<32>(s);
    float scale = 1.0f / s.l;

    for (int64_t i = lane; i < at.packs; i += 32)
        store_pack(y + first + i * PER<float>, normalise(load_pack(x + first + i * PER<float>), s.m, scale));
    if (end >= 0)
        y[end] = fast_exp(x[end] - s.m) * scale;
}

void vector_softmax_gpu(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    int64_t blocks = (rows * 32 + THREADS - 1) / THREADS;
    vector_softmax_kernel<<<(unsigned)blocks, THREADS, 0, stream>>>(y, x, rows, cols);
}

/*
 * Step 08, shelved softmax on the GPU: shared memory holds packs, too, so that a block holds four times as long a row.
 *
 * An SM has 256 KiB of registers, and on an H100 228 KiB of memory that a block's threads may share. A thread holds PACKS packs
 * in registers, and the next ones in shared memory, where it alone reads them: they are copied there past its registers, while it
 * goes on. Rows of up to 144 KiB are read once there. Whatever a block cannot hold is read again; step 09 cures that.
 *
 * An SM runs two blocks of 512 threads: while one loads, the other stores. Rows that 512 threads hold in registers are left to
 * step 07.
 *
 * Trips over the tensor: 1 read, 1 write.
 * Changed since step 07: shared memory; blocks of 512 threads.
 */
#include <cuda_pipeline.h>

#include "cluster.cuh"
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define RESIDENT_PACKS 2048 /* rows of up to so many packs, 32 KiB, are left to step 07 */
#define BLOCK 512           /* threads of a block: an SM runs two */
#define PACKS 4             /* packs of 16 bytes that a thread holds in registers */

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
template <class T> static __device__ pack<T> normalise(pack<T> p, float m, float scale)
{
    float v[PER<T>];
    unpack(v, unpacked_before(p));
    for (int k = 0; k < PER<T>; k++)
        v[k] = fast_exp(v[k] - m) * scale;
    return make_pack<T>(v);
}

/* What a thread takes of its row: every THREADS-th pack, and perhaps elements of the row's ends. */
template <class T, int THREADS> struct share {
    static constexpr int ENDS = (2 * PER<T> - 3) / THREADS + 1; /* of the row's elements that fill no pack: 1, or 2 */
    int64_t first;  /* element of the tensor where its first pack begins */
    int packs;
    int skip;       /* packs at its beginning that are not in the row yet: 0 or 1 */
    int64_t end[ENDS]; /* elements of the tensor; -1: none */

    pack<T> held[PACKS]; /* the first packs; then come those in shared memory; what is beyond `count` is held nowhere */
    float held_end[ENDS];
    T *shelf;       /* pack i of those in shared memory is at shelf + i * STEP */
    int count;
};

/* The calling thread's share of a row of the tensor x. */
template <class T, int THREADS>
static __device__ void find_share(struct share<T, THREADS> *mine, const T *x, int64_t row, int64_t cols)
{
    struct row_layout at = layout_row(x + row * cols, cols);
    int t = threadIdx.x % THREADS;
    /* Packs are counted from the start of the row's first cache line, so that every warp has whole lines. */
    int lead = at.lead;
    mine->first = row * cols + at.head + (t - lead) * PER<T>;
    mine->packs = (int)((uint64_t)(lead + at.packs + THREADS - 1 - t) / THREADS);
    mine->skip = t < lead;
    for (int i = 0; i < mine->ENDS; i++)
        mine->end[i] = i * THREADS + t < at.ends ? row * cols + end_col<T>(at, i * THREADS + t) : -1;
}

/* Start all loads, wait for none. */
template <class T, int THREADS> static __device__ void start_loads(struct share<T, THREADS> *mine, const T *x)
{
    constexpr int STEP = THREADS * PER<T>; /* elements from one pack of a thread to its next */
    for (int i = 0; i < PACKS; i++)
        if (i >= mine->skip && i < mine->packs)
            mine->held[i] = load_once(x + mine->first + i * STEP);
    for (int i = PACKS; i < min(mine->packs, mine->count); i++)
        __pipeline_memcpy_async(mine->shelf + i * STEP, x + mine->first + (int64_t)i * STEP, 16);
    __pipeline_commit();
    for (int i = 0; i < mine->ENDS; i++)
        if (mine->end[i] >= 0)
            mine->held_end[i] = to_float(x[mine->end[i]]);
}

/* The state of a share, merged in the order in which the loads were started. */
template <class T, int THREADS>
static __device__ struct softmax_state merge_share(const struct share<T, THREADS> *mine, const T *x)
{
    constexpr int STEP = THREADS * PER<T>;
    struct softmax_state s = softmax_empty();
    for (int i = 0; i < PACKS; i++)
        if (i >= mine->skip && i < mine->packs)
            s = merge_pack(s, mine->held[i]);
    __pipeline_wait_prior(0);
    for (int i = PACKS; i < min(mine->packs, mine->count); i++)
        s = merge_pack(s, load_pack(mine->shelf + i * STEP));
    for (int i = mine->count; i < mine->packs; i++)
        s = merge_pack(s, load_once(x + mine->first + (int64_t)i * STEP));
    for (int i = 0; i < mine->ENDS; i++)
        if (mine->end[i] >= 0)
            s = softmax_merge(s, softmax_one(mine->held_end[i]));
    return s;
}

/* Write a share, given the state of its row. What is not held comes first: read last, it is in the cache if anything is. */
template <class T, int THREADS>
static __device__ void store_share(T *y, const T *x, const struct share<T, THREADS> *mine, struct softmax_state s)
{
    constexpr int STEP = THREADS * PER<T>;
    float scale = 1.0f / s.l;
    for (int i = mine->count; i < mine->packs; i++) {
        int64_t at = mine->first + (int64_t)i * STEP;
        store_pack(y + at, normalise(load_once(x + at), s.m, scale));
    }
    for (int i = 0; i < PACKS; i++)
        if (i >= mine->skip && i < mine->packs)
            store_pack(y + mine->first + i * STEP, normalise(mine->held[i], s.m, scale));
    for (int i = PACKS; i < min(mine->packs, mine->count); i++)
        store_pack(y + mine->first + (int64_t)i * STEP, normalise(load_pack(mine->shelf + i * STEP), s.m, scale));
    for (int i = 0; i < mine->ENDS; i++)
        if (mine->end[i] >= 0)
            from_float(y + mine->end[i], fast_exp(mine->held_end[i] - s.m) * scale);
}

/* x, y: (rows, cols), row-major. A block has a row. slots: packs that a thread holds in shared memory. */
template <class T, int THREADS>
static __global__ void __launch_bounds__(THREADS, 2)
    shelved_softmax_kernel(T *__restrict__ y, const T *__restrict__ x, int64_t cols, int slots)
{
    extern __shared__ uint4 shared[];
    struct share<T, THREADS> mine;
    mine.shelf = (T *)shared + ((int)threadIdx.x - PACKS * THREADS) * PER<T>;
    mine.count = PACKS + slots;

    find_share(&mine, x, blockIdx.x, cols);
    start_loads(&mine, x);
    store_share(y, x, &mine, block_merge<THREADS>(merge_share(&mine, x)));
}

/* Slots for a thread, at most. Two blocks share an SM's memory; the runtime takes 1 KiB for each, and merges take some. */
static int64_t most_slots(void)
{
    return (shared_of_sm() / 2 - 2048) / (BLOCK * 16);
}

template <class T> static void launch(T *y, const T *x, int64_t rows, int64_t cols, cudaStream_t stream)
{
    bool aligned = (uintptr_t)x % 128 == 0 && cols * sizeof(T) % 128 == 0;
    int64_t packs = cols / PER<T> + (aligned ? 0 : LINE_PACKS - 1); /* of a row, at most, and of the line that it begins in */
    int slots = (int)min(ceil_div(max(packs - PACKS * BLOCK, (int64_t)0), BLOCK), most_slots());
    const void *kernel = (const void *)shelved_softmax_kernel<T, BLOCK>;
    cudaLaunchConfig_t config = configure(kernel, rows, BLOCK, slots * BLOCK * 16, NULL, stream);
    config.numAttrs = 0;
    void *arguments[] = { &y, &x, &cols, &slots };
    cudaLaunchKernelExC(&config, kernel, arguments);
}

void shelved_softmax_gpu(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    if (cols / PER<float> <= RESIDENT_PACKS)
        narrow_softmax_gpu(y, x, rows, cols, NULL, stream);
    else
        launch(y, x, rows, cols, stream);
}

void shelved_softmax_fp16_gpu(fp16 *y, const fp16 *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    if (cols / PER<fp16> <= RESIDENT_PACKS)
        narrow_softmax_fp16_gpu(y, x, rows, cols, NULL, stream);
    else
        launch(y, x, rows, cols, stream);
}

void shelved_softmax_bf16_gpu(bf16 *y, const bf16 *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    if (cols / PER<bf16> <= RESIDENT_PACKS)
        narrow_softmax_bf16_gpu(y, x, rows, cols, NULL, stream);
    else
        launch(y, x, rows, cols, stream);
}

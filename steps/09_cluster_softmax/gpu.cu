/*
 * Step 09, cluster softmax on the GPU: a row too long for one block is shared by a cluster of blocks, which merge their states
 * through each other's shared memory.
 *
 * A cluster is up to 16 blocks that the hardware starts together, on sm_90 and later. Each block holds a slice of the row on
 * chip, 32 KiB in registers and the rest in shared memory, and finds the slice's (m, l). It writes that into the shared memory
 * of all the others; each merges all of them, and writes its slice. Rows of up to 2 MiB are read once.
 *
 * An SM runs two blocks of 512 threads: while one loads, the other stores. Rows that 512 threads hold in registers are left to
 * step 07. Where clusters cannot be had, one block has a row. What a row's blocks cannot hold is read again.
 *
 * Trips over the tensor: 1 read, 1 write.
 * Changed since step 08: clusters of blocks, and their merge.
 */
#include <cuda_pipeline.h>

#include "cluster.cuh"
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define RESIDENT_PACKS 2048 /* rows of up to so many packs, 32 KiB, are left to step 07 */
#define BLOCK 512           /* threads of a block: an SM runs two */
#define PACKS 4             /* packs of 16 bytes that a thread holds in registers */
#define CLUSTER_PACKS 8192  /* packs that a block of a cluster holds, in registers and shared memory: 16 a thread */
#define MAX_CLUSTER 16      /* blocks of a cluster, at most; more than 8 must be asked for */

/* How rows are shared out. */
struct split {
    int64_t rows, cols;
    int64_t chunk;  /* packs of a block's slice, at most: whole cache lines */
    int size;       /* blocks of a team, which have a row together */
    int slots;      /* packs that a thread holds in shared memory */
};

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

/* What a thread takes of its row: every THREADS-th pack of its block's slice, and perhaps elements of its ends. */
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

/* The calling thread's share of a row of the tensor x. rank: of its block among those that have the row. */
template <class T, int THREADS>
static __device__ void find_share(struct share<T, THREADS> *mine, const T *x, int64_t row, struct split how, int rank)
{
    struct row_layout at = layout_row(x + row * how.cols, how.cols);
    int t = threadIdx.x % THREADS;
    /* Packs are counted from the start of the row's first cache line, so that every warp has whole lines. */
    int64_t packs = at.lead + at.packs, before = min(packs, rank * how.chunk), slice = min(packs - before, how.chunk);
    mine->first = row * how.cols + at.head + (before + t - at.lead) * PER<T>;
    mine->packs = (int)((uint64_t)(slice + THREADS - 1 - t) / THREADS);
    mine->skip = rank == 0 && t < at.lead;
    for (int i = 0; i < mine->ENDS; i++)
        mine->end[i] = rank == 0 && i * THREADS + t < at.ends ? row * how.cols + end_col<T>(at, i * THREADS + t) : -1;
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

/*
 * The merge of the states of a cluster's blocks, in every thread of each of them. s: of the calling thread's block, which has
 * number `rank` of `size`. Every block has an inbox with a place for each. Before sm_90 there are no clusters.
 */
static __device__ struct softmax_state cluster_merge(struct softmax_state s, int size, int rank)
{
#if __CUDA_ARCH__ >= 900
    __shared__ struct softmax_state inbox[MAX_CLUSTER];
    if (threadIdx.x < size)
        cooperative_groups::this_cluster().map_shared_rank(inbox, threadIdx.x)[rank] = s;
    cluster_barrier(); /* nobody writes after it */
    int lane = threadIdx.x % 32;
    s = warp_merge<32>(lane < size ? inbox[lane] : softmax_empty());
#endif
    return s;
}

/* x, y: (rows, cols), row-major. A cluster has a row; or else a block has. */
template <class T, int THREADS, bool CLUSTER>
static __global__ void __launch_bounds__(THREADS, 2)
    cluster_softmax_kernel(T *__restrict__ y, const T *__restrict__ x, struct split how)
{
    extern __shared__ uint4 shared[];
    int team = blockIdx.x / how.size, rank = blockIdx.x % how.size;
    struct share<T, THREADS> mine;
    mine.shelf = (T *)shared + ((int)threadIdx.x - PACKS * THREADS) * PER<T>;
    mine.count = PACKS + how.slots;

    find_share(&mine, x, team, how, rank);
    start_loads(&mine, x);
    if (CLUSTER)
        cluster_barrier(); /* all are here, and can be written to; meanwhile the loads are under way */
    struct softmax_state s = block_merge<THREADS>(merge_share(&mine, x));
    if (CLUSTER)
        s = cluster_merge(s, how.size, rank);
    store_share(y, x, &mine, s);
}

/* Slots for a thread, at most. Two blocks share an SM's memory; the runtime takes 1 KiB for each, and merges take some. */
static int64_t most_slots(void)
{
    return (shared_of_sm() / 2 - 2048) / (BLOCK * 16);
}

/* Share a row of so many packs among `size` blocks. */
static void cut(struct split *how, int64_t packs, int64_t size)
{
    how->size = (int)size;
    how->chunk = ceil_div(packs, size * LINE_PACKS) * LINE_PACKS;
    how->slots = (int)min(ceil_div(max(how->chunk - PACKS * BLOCK, (int64_t)0), BLOCK), most_slots());
}

template <class T> static void launch(T *y, const T *x, int64_t rows, int64_t cols, cudaStream_t stream)
{
    bool aligned = (uintptr_t)x % 128 == 0 && cols * sizeof(T) % 128 == 0;
    int64_t packs = cols / PER<T> + (aligned ? 0 : LINE_PACKS - 1); /* of a row, at most, and of the line that it begins in */
    int64_t blocks = ceil_div(packs, CLUSTER_PACKS);
    struct split how = { rows, cols, 0, 0, 0 };
    cut(&how, packs, min(blocks, (int64_t)MAX_CLUSTER));
    const void *one = (const void *)cluster_softmax_kernel<T, BLOCK, false>;
    const void *kernel = how.size == 1 ? one : (const void *)cluster_softmax_kernel<T, BLOCK, true>;
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = { (unsigned)how.size, 1, 1 };
    cudaLaunchConfig_t config = configure(kernel, rows * how.size, BLOCK, how.slots * BLOCK * 16, &attribute, stream);
    if (!has_clusters(kernel, &config)) { /* a block a row */
        cut(&how, packs, 1);
        kernel = one;
        config = configure(kernel, rows * how.size, BLOCK, how.slots * BLOCK * 16, &attribute, stream);
        config.numAttrs = 0;
    }
    void *arguments[] = { &y, &x, &how };
    cudaLaunchKernelExC(&config, kernel, arguments);
}

void cluster_softmax_gpu(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    if (cols / PER<float> <= RESIDENT_PACKS)
        narrow_softmax_gpu(y, x, rows, cols, NULL, stream);
    else
        launch(y, x, rows, cols, stream);
}

void cluster_softmax_fp16_gpu(fp16 *y, const fp16 *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    if (cols / PER<fp16> <= RESIDENT_PACKS)
        narrow_softmax_fp16_gpu(y, x, rows, cols, NULL, stream);
    else
        launch(y, x, rows, cols, stream);
}

void cluster_softmax_bf16_gpu(bf16 *y, const bf16 *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    if (cols / PER<bf16> <= RESIDENT_PACKS)
        narrow_softmax_bf16_gpu(y, x, rows, cols, NULL, stream);
    else
        launch(y, x, rows, cols, stream);
}

/*
 * Step 09, split softmax on the GPU: a row too long for one block is shared by a team of blocks, which merge their states.
 *
 * Each block of a team holds a slice of the row on chip, 32 KiB in registers and the rest in shared memory, and finds the slice's
 * (m, l). The team exchanges states, each block merges all of them, and each writes its slice. Two kinds of team differ in how a
 * state travels, and in nothing else:
 *
 *     cluster   up to 16 blocks that the hardware starts together. Each writes its state into the others' shared memory.
 *               A cluster owns a row. Rows of up to 2 MiB, on sm_90 and later.
 *     grid      any number of blocks, all under way at once. Each posts its state in global memory, and watches for the
 *               others'. A team owns row after row. For older devices, for longer rows, and for rows so few that
 *               clusters would leave SMs idle.
 *
 * An SM runs two blocks of 512 threads: while one loads, the other stores. A row of up to 64 KiB needs no team: it fits a block
 * of 256 threads, and an SM runs four. What all the blocks there are cannot hold, beyond some 9 million columns, is read again.
 *
 * Trips over the tensor: 1 read, 1 write.
 * Changed since step 07: teams of blocks, and their exchange; shared memory holds packs too.
 */
#include <cooperative_groups.h>
#include <cuda_pipeline.h>

#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define RESIDENT_PACKS 2048  /* rows of up to so many packs, 32 KiB, are left to step 07 */
#define SM_THREADS 1024      /* threads of an SM: two blocks of 512, or four of 256 */
#define REGISTER_PACKS 2048  /* packs that a block holds in registers: 4 a thread of 512, 8 a thread of 256 */
#define CLUSTER_PACKS 16     /* packs that a thread of a cluster holds, registers and shared memory together */
#define MAX_CLUSTER 16       /* blocks of a cluster, at most; more than 8 must be asked for */

/* How rows are shared out. */
struct split {
    int64_t rows, cols;
    int64_t chunk;  /* packs of a slice, at most: whole cache lines */
    int size;       /* blocks of a team */
    int teams;
    int threads;    /* of a block */
    int slots;      /* packs that a thread holds in shared memory */
};

/*
 * What a thread takes of a row: every THREADS-th pack of its block's slice, and perhaps an element of the row's ends.
 */
template <class T, int THREADS> struct share {
    int64_t first;  /* element of the tensor where its first pack begins */
    int packs;
    int skip;       /* packs at its beginning that are not in the row yet: 0 or 1 */
    int64_t end;    /* element of the tensor; -1: none */

    /*
     * Where it is kept: the first packs in registers, then in shared memory, and if there are more than `count`,
     * nowhere.
     */
    pack<T> held[REGISTER_PACKS / THREADS];
    T *shelf;       /* pack i begins at shelf + i * STEP */
    int count;
    float held_end;
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

/* The merge of the states of a block's threads, in each of them. */
template <int THREADS> static __device__ struct softmax_state block_merge(struct softmax_state s)
{
    __shared__ struct softmax_state of_warp[THREADS / 32];
    s = warp_merge<32>(s);
    __syncthreads(); /* some may still be reading what the merge before left here */
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

/* ---- shares */

/* The calling thread's share of a row. */
template <class T, int THREADS>
static __device__ void find_share(struct share<T, THREADS> *mine, const T *x, struct split how, int64_t row, int rank)
{
    struct row_layout at = layout_row(x + row * how.cols, how.cols);
    int t = threadIdx.x;
    /* Packs are counted from the start of the row's first cache line, so that every warp has whole lines. */
    int64_t packs = at.lead + at.packs;
    int64_t before = min(packs, rank * how.chunk), slice = min(packs - before, how.chunk);
    mine->first = row * how.cols + at.head + (before + t - at.lead) * PER<T>;
    mine->packs = (int)((uint64_t)(slice + THREADS - 1 - t) / THREADS);
    mine->skip = rank == 0 && t < at.lead;
    mine->end = rank == 0 && t < at.ends ? row * how.cols + end_col<T>(at, t) : -1;
}

/* Start all loads, wait for none. x, y: the tensors. */
template <class T, int THREADS> static __device__ void start_loads(struct share<T, THREADS> *mine, const T *x)
{
    constexpr int PACKS = REGISTER_PACKS / THREADS, STEP = THREADS * PER<T>;
    for (int i = 0; i < PACKS; i++)
        if (i >= mine->skip && i < mine->packs)
            mine->held[i] = load_once(x + mine->first + i * STEP);
    for (int i = PACKS; i < min(mine->packs, mine->count); i++)
        __pipeline_memcpy_async(mine->shelf + i * STEP, x + mine->first + (int64_t)i * STEP, 16);
    __pipeline_commit();
    if (mine->end >= 0)
        mine->held_end = to_float(x[mine->end]);
}

/* The state of a share, merged in the order in which the loads were started. */
template <class T, int THREADS>
static __device__ struct softmax_state merge_share(const struct share<T, THREADS> *mine, const T *x)
{
    constexpr int PACKS = REGISTER_PACKS / THREADS, STEP = THREADS * PER<T>;
    struct softmax_state s = softmax_empty();
    for (int i = 0; i < PACKS; i++)
        if (i >= mine->skip && i < mine->packs)
            s = merge_pack(s, mine->held[i]);
    __pipeline_wait_prior(0);
    for (int i = PACKS; i < min(mine->packs, mine->count); i++)
        s = merge_pack(s, load_pack(mine->shelf + i * STEP));
    for (int i = mine->count; i < mine->packs; i++)
        s = merge_pack(s, load_once(x + mine->first + (int64_t)i * STEP));
    return mine->end >= 0 ? softmax_merge(s, softmax_one(mine->held_end)) : s;
}

/*
 * Write a share, given the state of its row. What is not held comes first: it was read last, and is in the cache if
 * anything is.
 */
template <class T, int THREADS>
static __device__ void store_share(T *y, const T *x, const struct share<T, THREADS> *mine, struct softmax_state s)
{
    constexpr int PACKS = REGISTER_PACKS / THREADS, STEP = THREADS * PER<T>;
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
    if (mine->end >= 0)
        from_float(y + mine->end, fast_exp(mine->held_end - s.m) * scale);
}

/* ---- exchanges: the merge of the states of a team's blocks, in each of them */

/*
 * Through the shared memory of the cluster's blocks: a block's inbox has a place for each. One barrier, and nobody
 * writes after it.
 */
static __device__ struct softmax_state cluster_exchange(struct softmax_state s, struct softmax_state *inbox, int size, int rank)
{
#if __CUDA_ARCH__ >= 900
    cooperative_groups::cluster_group cluster = cooperative_groups::this_cluster();
    if (threadIdx.x < size)
        cluster.map_shared_rank(inbox, threadIdx.x)[rank] = s;
    cluster.sync();
    int lane = threadIdx.x % 32;
    return warp_merge<32>(lane < size ? inbox[lane] : softmax_empty());
#else
    return s;
#endif
}

static __device__ void cluster_barrier(void)
{
#if __CUDA_ARCH__ >= 900
    cooperative_groups::this_cluster().sync();
#endif
}

/*
 * Through global memory: a row has a word for each block of its team, posts: (rows, size), 0 until the block's state
 * is known. A state fits a word that is stored and loaded as one, and no state is 0 (where l is 0, m is -inf), so
 * that the word is its own flag.
 */
template <int THREADS>
static __device__ struct softmax_state grid_exchange(struct softmax_state s, volatile uint64_t *posts, int size, int rank)
{
    if (threadIdx.x == 0)
        posts[rank] = (uint64_t)__float_as_uint(s.m) << 32 | __float_as_uint(s.l);
    s = softmax_empty();
    for (int i = threadIdx.x; i < size; i += THREADS) {
        uint64_t word;
        do
            word = posts[i];
        while (word == 0);
        s = softmax_merge(s, { __uint_as_float(word >> 32), __uint_as_float((uint32_t)word) });
    }
    return block_merge<THREADS>(s);
}

/* ---- the kernel */

/* x, y: (rows, cols), row-major. posts: (rows, size), done: (teams); zeroed, and left zeroed. A cluster has one row. */
template <class T, int THREADS, bool CLUSTER>
static __global__ void __launch_bounds__(THREADS, SM_THREADS / THREADS)
    split_softmax_kernel(T *__restrict__ y, const T *__restrict__ x, struct split how, uint64_t *posts, unsigned *done)
{
    extern __shared__ uint4 shared[];
    __shared__ struct softmax_state inbox[MAX_CLUSTER];
    int team = blockIdx.x / how.size, rank = blockIdx.x % how.size;
    struct share<T, THREADS> mine;
    mine.shelf = (T *)shared + ((int)threadIdx.x - REGISTER_PACKS) * PER<T>;
    mine.count = REGISTER_PACKS / THREADS + how.slots;

    int64_t row = team;
    do {
        find_share(&mine, x, how, row, rank);
        start_loads(&mine, x);
        if (CLUSTER)
            cluster_barrier(); /* all are here, and can be written to; meanwhile the loads are under way */
        struct softmax_state s = block_merge<THREADS>(merge_share(&mine, x));
        if (CLUSTER) {
            s = cluster_exchange(s, inbox, how.size, rank);
        } else if (how.size > 1) {
            s = grid_exchange<THREADS>(s, posts + row * how.size, how.size, rank);
            if (threadIdx.x == 0 && row >= how.teams) /* all have come to this row: nobody needs my last post any more */
                posts[(row - how.teams) * how.size + rank] = 0;
        }
        store_share(y, x, &mine, s);
        row += how.teams;
    } while (!CLUSTER && row < how.rows);

    /* The last block of a team to come here clears the team's last posts. */
    if (!CLUSTER && how.size > 1 && threadIdx.x == 0) {
        __threadfence();
        if (atomicAdd(&done[team], 1) == (unsigned)how.size - 1) {
            for (int i = 0; i < how.size; i++)
                posts[(row - how.teams) * how.size + i] = 0;
            done[team] = 0;
        }
    }
}

/* ---- launchers */

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/*
 * Fill in what follows from size and threads. packs: of a row; lead: packs of a line before a row's first; room: for
 * slots.
 */
static void cut(struct split *how, int64_t packs, int lead, int64_t room)
{
    how->chunk = ceil_div(lead + packs, how->size * LINE_PACKS) * LINE_PACKS;
    how->slots = (int)min(ceil_div(max(how->chunk - REGISTER_PACKS, (int64_t)0), how->threads), room);
}

/* A cluster a row. lead: packs of a line that may be before a row's first, 0 or 7. */
static struct split split_for_clusters(int64_t rows, int64_t cols, int64_t packs, int lead)
{
    struct split how = {};
    how.rows = rows;
    how.cols = cols;
    how.threads = lead + packs <= CLUSTER_PACKS * 256 ? 256 : 512;
    how.size = (int)min(ceil_div(lead + packs, CLUSTER_PACKS * how.threads), (int64_t)MAX_CLUSTER);
    how.teams = (int)rows;
    cut(&how, packs, lead, CLUSTER_PACKS - REGISTER_PACKS / how.threads);
    return how;
}

/* As few blocks a team as can hold a row, and then all the blocks that there are. */
static struct split split_for_grid(int64_t rows, int64_t cols, int64_t packs)
{
    struct split how = {};
    how.rows = rows;
    how.cols = cols;
    how.threads = 512;
    int blocks_per_sm = SM_THREADS / how.threads;
    int64_t blocks = (int64_t)device_attribute(cudaDevAttrMultiProcessorCount) * blocks_per_sm;
    /* Of shared memory the runtime takes 1 KiB a block; and there is the merge's. */
    int64_t room = (shared_of_sm() / blocks_per_sm - 2048) / (how.threads * 16);
    int64_t least = min(max(ceil_div(packs, REGISTER_PACKS + room * how.threads), (int64_t)1), blocks);
    how.teams = (int)min(rows, blocks / least);
    how.size = (int)(blocks / how.teams);
    cut(&how, packs, LINE_PACKS - 1, room);
    return how;
}

/* A launch of `kernel` on `stream`. attribute: what makes it one of clusters, or a cooperative one. */
static cudaLaunchConfig_t configure(const void *kernel, const struct split *how, bool cluster, cudaLaunchAttribute *attribute,
                                    cudaStream_t stream)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)how->teams * how->size);
    config.blockDim = dim3(how->threads);
    config.dynamicSmemBytes = (size_t)how->slots * how->threads * 16;
    config.stream = stream;
    config.attrs = attribute;
    config.numAttrs = 1;
    if (cluster) {
        attribute->id = cudaLaunchAttributeClusterDimension;
        attribute->val.clusterDim.x = how->size;
        attribute->val.clusterDim.y = attribute->val.clusterDim.z = 1;
        cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    } else {
        attribute->id = cudaLaunchAttributeCooperative;
        attribute->val.cooperative = 1;
    }
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)config.dynamicSmemBytes);
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    return config;
}

/*
 * A launch of clusters, if they can be had: the kernel was compiled for sm_90 or later, which says that the device is one, and
 * they fit it. Only then may it be asked for shared memory, which older devices have less of.
 */
static bool configure_clusters(cudaLaunchConfig_t *config, const void *kernel, const struct split *how,
                               cudaLaunchAttribute *attribute, cudaStream_t stream)
{
    struct cudaFuncAttributes attributes;
    int clusters = 0;
    bool has = cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.ptxVersion >= 90;
    if (has) {
        *config = configure(kernel, how, true, attribute, stream);
        has = cudaOccupancyMaxActiveClusters(&clusters, kernel, config) == cudaSuccess && clusters > 0;
    }
    cudaGetLastError(); /* a "no" is not an error */
    return has;
}

template <class T> static void launch(T *y, const T *x, int64_t rows, int64_t cols, void *workspace, cudaStream_t stream)
{
    int64_t packs = cols / PER<T>; /* of a row, at most */
    int lead = (uintptr_t)x % 128 == 0 && cols * sizeof(T) % 128 == 0 ? 0 : LINE_PACKS - 1;
    cudaLaunchAttribute attribute;

    struct split how = split_for_clusters(rows, cols, packs, lead);
    const void *kernel = how.threads == 256 ? (const void *)split_softmax_kernel<T, 256, true>
                                            : (const void *)split_softmax_kernel<T, 512, true>;
    cudaLaunchConfig_t config;
    if (packs > MAX_CLUSTER * CLUSTER_PACKS * 512 || rows * how.size > INT32_MAX ||
        rows * how.size < device_attribute(cudaDevAttrMultiProcessorCount) ||
        !configure_clusters(&config, kernel, &how, &attribute, stream)) {
        how = split_for_grid(rows, cols, packs);
        kernel = (const void *)split_softmax_kernel<T, 512, false>;
        config = configure(kernel, &how, false, &attribute, stream);
    }

    unsigned *done = (unsigned *)workspace;
    uint64_t *posts = (uint64_t *)workspace + how.teams;
    void *arguments[] = { &y, &x, &how, &posts, &done };
    cudaLaunchKernelExC(&config, kernel, arguments);
}

/* What a grid needs, whether clusters can be had or not: at most a word a row and block, and one a team. */
size_t split_softmax_workspace(int64_t rows, int64_t cols, enum dtype dtype)
{
    int64_t packs = cols / (dtype == FP32 ? PER<float> : PER<fp16>);
    if (packs <= RESIDENT_PACKS)
        return 0;
    struct split how = split_for_grid(rows, cols, packs);
    return ((size_t)how.teams + (size_t)rows * how.size) * sizeof(uint64_t);
}

void split_softmax_gpu(float *y, const float *x, int64_t rows, int64_t cols, void *workspace, cudaStream_t stream)
{
    if (cols / PER<float> <= RESIDENT_PACKS)
        narrow_softmax_gpu(y, x, rows, cols, workspace, stream);
    else
        launch(y, x, rows, cols, workspace, stream);
}

void split_softmax_fp16_gpu(fp16 *y, const fp16 *x, int64_t rows, int64_t cols, void *workspace, cudaStream_t stream)
{
    if (cols / PER<fp16> <= RESIDENT_PACKS)
        narrow_softmax_fp16_gpu(y, x, rows, cols, workspace, stream);
    else
        launch(y, x, rows, cols, workspace, stream);
}

void split_softmax_bf16_gpu(bf16 *y, const bf16 *x, int64_t rows, int64_t cols, void *workspace, cudaStream_t stream)
{
    if (cols / PER<bf16> <= RESIDENT_PACKS)
        narrow_softmax_bf16_gpu(y, x, rows, cols, workspace, stream);
    else
        launch(y, x, rows, cols, workspace, stream);
}

/*
 * Step 06, split softmax on the GPU: a row too long for one block is shared by a team of blocks that tell each other their states.
 *
 * Each block of a team holds a slice of the row on chip, PACKS packs a thread in registers and the others in shared memory, and
 * finds the slice's (m, l). Then the team exchanges states, each block merges all of them, and each writes its slice. Only
 * the way of the states differs, never the rule:
 *
 *     cluster   up to 16 blocks that the hardware starts together: each writes its state into the others' shared memory. A
 *               cluster a row, a slice of up to 128 KiB a block, two blocks an SM: one loads while the other stores. (sm_90)
 *     grid      any number of blocks, all there at once, for any GPU: each posts its state in global memory and watches for
 *               the others'. A team takes a row after another, and loads the next while it stores this one. Also where rows are
 *               so few that clusters would leave SMs idle.
 *
 * What the whole chip cannot hold, a row of some 8 million columns, is read again.
 *
 * Trips over the tensor: 1 read, 1 write.
 * Changed since step 05: teams of blocks and their exchange; shared memory holds packs too.
 */
#include <cooperative_groups.h>
#include <cuda_pipeline.h>

#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define SM_THREADS 1024     /* threads of an SM: four blocks of 256 or two of 512 */
#define REGISTER_PACKS 2048 /* packs of 16 bytes that a block holds in registers: 8 a thread of 256, 4 a thread of 512 */
#define CLUSTER_PACKS 16    /* packs that a thread of a cluster holds in all: slices of 64 KiB for 256 threads, 128 KiB for 512 */
#define MAX_CLUSTER 16      /* blocks of a cluster, at most (more than 8 must be asked for) */
#define RESIDENT_PACKS 2048 /* rows of up to so many packs are left to step 05 */

/* How rows are shared out. */
struct split {
    int64_t rows, cols;
    int64_t chunk;  /* packs of a slice, at most */
    int size;       /* blocks of a team */
    int teams;
    int slots;      /* packs that a thread holds in shared memory */
    int threads;    /* of a block */
    bool cluster;
};

/* The part of a row that a thread takes: every THREADS-th pack of its block's slice, and perhaps an element of the row's ends. */
struct share {
    int64_t first;  /* the first element of its first pack, counted from the tensor's */
    int skip;       /* packs before the row begins: 0 or 1 */
    int packs;
    int64_t end;    /* the element of the ends, counted likewise; -1: none */
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
    unpack(v, p);
    for (int k = 0; k < PER<T>; k++)
        v[k] = fast_exp(v[k] - m) * scale;
    return make_pack<T>(v);
}

/* ---- shares */

/* The calling thread's share of a row. */
template <class T, int THREADS> static __device__ struct share share_of(const T *x, struct split how, int64_t row, int rank)
{
    struct row_layout at = layout_row(x + row * how.cols, how.cols);
    int64_t packs = at.packs + at.lead; /* counted from where the first cache line starts: whole lines for every warp */
    int64_t skipped = min(packs, rank * how.chunk), slice = min(packs - skipped, how.chunk);
    struct share mine;
    mine.first = row * how.cols + at.head + (skipped + threadIdx.x - at.lead) * PER<T>;
    mine.skip = rank == 0 && threadIdx.x < at.lead;
    mine.packs = (int)((uint64_t)(slice + THREADS - 1 - threadIdx.x) / THREADS);
    mine.end = rank == 0 && threadIdx.x < at.ends ? row * how.cols + end_col<T>(at, threadIdx.x) : -1;
    return mine;
}

/* What a thread holds of its share: PACKS packs, `slots` more in shared memory, and the element of the ends. */
template <class T, int THREADS> struct holding {
    pack<T> held[REGISTER_PACKS / THREADS];
    T *shelf;       /* the thread's pack i is at shelf + i * STEP, i >= PACKS */
    int count;      /* packs in all */
    float end;
};

/* Start all loads, wait for none. x: the tensor. */
template <class T, int THREADS> static __device__ void start_loads(struct holding<T, THREADS> *h, const T *x, struct share mine)
{
    constexpr int PACKS = REGISTER_PACKS / THREADS;
    for (int i = 0; i < PACKS; i++)
        if (i >= mine.skip && i < mine.packs)
            h->held[i] = load_once(x + mine.first + i * THREADS * PER<T>);
    for (int i = PACKS; i < min(mine.packs, h->count); i++)
        __pipeline_memcpy_async(h->shelf + i * THREADS * PER<T>, x + mine.first + (int64_t)i * THREADS * PER<T>, 16);
    __pipeline_commit();
    if (mine.end >= 0)
        h->end = to_float(x[mine.end]);
}

/* The state of the share, merged in the order in which the loads were started. */
template <class T, int THREADS> static __device__ struct softmax_state merge_share(struct holding<T, THREADS> *h, const T *x, struct share mine)
{
    constexpr int PACKS = REGISTER_PACKS / THREADS;
    struct softmax_state s = softmax_empty();
    for (int i = 0; i < PACKS; i++)
        if (i >= mine.skip && i < mine.packs)
            s = merge_pack(s, h->held[i]);
    __pipeline_wait_prior(0);
    for (int i = PACKS; i < min(mine.packs, h->count); i++)
        s = merge_pack(s, load_pack(h->shelf + i * THREADS * PER<T>));
    for (int i = h->count; i < mine.packs; i++)
        s = merge_pack(s, load_once(x + mine.first + (int64_t)i * THREADS * PER<T>));
    return mine.end >= 0 ? softmax_merge(s, softmax_one(h->end)) : s;
}

/* What is not held goes first: it was read last, and is in the cache if anything is. */
template <class T, int THREADS>
static __device__ void store_share(T *y, const T *x, const struct holding<T, THREADS> *h, struct share mine, struct softmax_state s)
{
    constexpr int PACKS = REGISTER_PACKS / THREADS;
    float scale = 1.0f / s.l;
    for (int i = h->count; i < mine.packs; i++) {
        int64_t at = mine.first + (int64_t)i * THREADS * PER<T>;
        store_pack(y + at, normalise(load_once(x + at), s.m, scale));
    }
    for (int i = 0; i < PACKS; i++)
        if (i >= mine.skip && i < mine.packs)
            store_pack(y + mine.first + i * THREADS * PER<T>, normalise(h->held[i], s.m, scale));
    for (int i = PACKS; i < min(mine.packs, h->count); i++)
        store_pack(y + mine.first + (int64_t)i * THREADS * PER<T>, normalise(load_pack(h->shelf + i * THREADS * PER<T>), s.m, scale));
    if (mine.end >= 0)
        from_float(y + mine.end, fast_exp(h->end - s.m) * scale);
}

/* ---- exchanges: the merge of the states of a team's blocks, in each of them */

/* Through the shared memory of the cluster's blocks: a block's inbox has a place for each. One barrier, and nobody writes after it. */
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
 * Through global memory: a row has a word for each block of its team, posts: (rows, size), 0 until the block's state is known. A state
 * fits a word that is stored and loaded as one, and no state is 0 (where l is 0, m is -inf), so that the word is its own flag.
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

/* x, y: (rows, cols), row-major. posts: (rows, size), done: (teams); zeroed, and left zeroed. */
template <class T, int THREADS, bool CLUSTER> static __global__ void __launch_bounds__(THREADS, SM_THREADS / THREADS)
    split_softmax_kernel(T *__restrict__ y, const T *__restrict__ x, struct split how, uint64_t *posts, unsigned *done)
{
    extern __shared__ uint4 shared[];
    __shared__ struct softmax_state inbox[MAX_CLUSTER];
    int team = blockIdx.x / how.size, rank = blockIdx.x % how.size;
    struct holding<T, THREADS> h;
    h.shelf = (T *)shared + threadIdx.x * PER<T> - REGISTER_PACKS * PER<T>;
    h.count = REGISTER_PACKS / THREADS + how.slots;

    int64_t row = team;
    do {
        struct share mine = share_of<T, THREADS>(x, how, row, rank);
        start_loads<T, THREADS>(&h, x, mine);
        if (CLUSTER)
            cluster_barrier(); /* all are here, and can be written to; the loads are under way meanwhile */

        struct softmax_state s = block_merge<THREADS>(merge_share<T, THREADS>(&h, x, mine));
        if (CLUSTER)
            s = cluster_exchange(s, inbox, how.size, rank);
        else if (how.size > 1) {
            s = grid_exchange<THREADS>(s, posts + row * how.size, how.size, rank);
            if (threadIdx.x == 0 && row >= how.teams) /* everyone is at this row: nobody needs my last post any more */
                posts[(row - how.teams) * how.size + rank] = 0;
        }
        store_share<T, THREADS>(y, x, &h, mine, s);
        row += how.teams;
    } while (!CLUSTER && row < how.rows);

    /* The last to leave clears its team's last posts. */
    if (!CLUSTER && how.size > 1 && threadIdx.x == 0) {
        __threadfence();
        if (atomicAdd(&done[team], 1) == (unsigned)how.size - 1) {
            int64_t last = team + (how.rows - 1 - team) / how.teams * how.teams;
            for (int i = 0; i < how.size; i++)
                posts[last * how.size + i] = 0;
            done[team] = 0;
        }
    }
}

/* ---- launchers */

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int device_attribute(enum cudaDeviceAttr attribute)
{
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, attribute, device);
    return value;
}

/* `cluster`: whether clusters can be had. */
static struct split split_rows(int64_t rows, int64_t cols, size_t element_bytes, bool cluster)
{
    struct split how = {};
    how.rows = rows;
    how.cols = cols;
    int64_t packs = cols * (int64_t)element_bytes / 16; /* of a row, at most */
    int sms = device_attribute(cudaDevAttrMultiProcessorCount);

    how.threads = packs <= CLUSTER_PACKS * 256 ? 256 : 512;
    how.size = (int)min(max(ceil_div(packs, CLUSTER_PACKS * how.threads), (int64_t)1), (int64_t)MAX_CLUSTER + 1);
    how.cluster = cluster && how.size <= MAX_CLUSTER && rows * how.size >= sms;
    how.teams = (int)min(rows, (int64_t)INT32_MAX / how.size);
    int64_t room = CLUSTER_PACKS - REGISTER_PACKS / how.threads; /* packs that a thread can hold in shared memory */
    if (!how.cluster) {
        /* As few blocks a team as can hold a row; then all the blocks there are. 2 KiB: the runtime's share, and our small arrays. */
        how.threads = 512;
        int blocks_per_sm = SM_THREADS / how.threads;
        room = (device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / blocks_per_sm - 2048) / (how.threads * 16);
        int64_t blocks = (int64_t)sms * blocks_per_sm, least = ceil_div(packs, REGISTER_PACKS + room * how.threads);
        how.teams = (int)min(rows, blocks / min(max(least, (int64_t)1), blocks));
        how.size = (int)(blocks / how.teams);
    }
    how.chunk = ceil_div(packs + 7, how.size * 8) * 8; /* whole lines, wherever the row begins in one */
    how.slots = (int)min(ceil_div(max(how.chunk - REGISTER_PACKS, (int64_t)0), how.threads), room);
    return how;
}

/* The code for clusters is there only if this kernel was compiled for sm_90 or later, which says that the device is one, too. */
static bool has_clusters(void)
{
    struct cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, split_softmax_kernel<float, 256, true>) == cudaSuccess && attributes.ptxVersion >= 90;
}

template <class T> static void launch(T *y, const T *x, int64_t rows, int64_t cols, void *workspace, cudaStream_t stream)
{
    struct split how = split_rows(rows, cols, sizeof(T), has_clusters());
    unsigned *done = (unsigned *)workspace;
    uint64_t *posts = (uint64_t *)(done + 2 * how.teams); /* 2: keeps the words aligned */
    void *arguments[] = { &y, &x, &how, &posts, &done };
    const void *kernel = !how.cluster         ? (const void *)split_softmax_kernel<T, 512, false>
                         : how.threads == 256 ? (const void *)split_softmax_kernel<T, 256, true>
                                              : (const void *)split_softmax_kernel<T, 512, true>;

    cudaLaunchAttribute attribute;
    attribute.id = how.cluster ? cudaLaunchAttributeClusterDimension : cudaLaunchAttributeCooperative;
    if (how.cluster)
        attribute.val.clusterDim.x = how.size, attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    else
        attribute.val.cooperative = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(how.teams * how.size));
    config.blockDim = dim3(how.threads);
    config.dynamicSmemBytes = (size_t)how.slots * how.threads * 16;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;

    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)config.dynamicSmemBytes);
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    if (how.cluster)
        cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    cudaLaunchKernelExC(&config, kernel, arguments);
}

size_t split_softmax_workspace(int64_t rows, int64_t cols, enum dtype dtype)
{
    size_t element_bytes = dtype == FP32 ? 4 : 2;
    struct split how = split_rows(rows, cols, element_bytes, has_clusters());
    return how.cluster ? 0 : ((size_t)how.teams + (size_t)rows * how.size) * sizeof(uint64_t);
}

void split_softmax_gpu(float *y, const float *x, int64_t rows, int64_t cols, void *workspace, cudaStream_t stream)
{
    if (cols <= RESIDENT_PACKS * PER<float>)
        resident_softmax_gpu(y, x, rows, cols, workspace, stream);
    else
        launch(y, x, rows, cols, workspace, stream);
}

void split_softmax_fp16_gpu(fp16 *y, const fp16 *x, int64_t rows, int64_t cols, void *workspace, cudaStream_t stream)
{
    if (cols <= RESIDENT_PACKS * PER<fp16>)
        resident_softmax_fp16_gpu(y, x, rows, cols, workspace, stream);
    else
        launch(y, x, rows, cols, workspace, stream);
}

void split_softmax_bf16_gpu(bf16 *y, const bf16 *x, int64_t rows, int64_t cols, void *workspace, cudaStream_t stream)
{
    if (cols <= RESIDENT_PACKS * PER<bf16>)
        resident_softmax_bf16_gpu(y, x, rows, cols, workspace, stream);
    else
        launch(y, x, rows, cols, workspace, stream);
}

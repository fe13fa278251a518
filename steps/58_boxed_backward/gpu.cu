/*
 * Step 58, boxed backward: step 57, with K and V brought by the copy engine. Needs sm_90a.
 *
 * A block owns BC keys of a head of K and V, KEYS each warp, and walks over the queries that see them, ROWS at a time, through
 * all heads of Q that share these keys:
 *
 *     S^T  = K Q^T     P^T  = 2^(c S^T - lse)      dV += P^T dO
 *     dP^T = V dO^T    dS^T = P^T (dP^T - D)       dK += dS^T Q
 *
 * dQ = scale dS K needs the dS of all keys of the block. So dS goes to shared memory, in quarters of 8 x 8, one after the other.
 * Behind a barrier each warp computes a part of dQ, and adds it to fp32 sums in memory.
 *
 * The engine copies boxes: 64 keys, in panels of 64 columns. One thread asks for them, and the bytes arrive at a barrier that
 * counts them. Q and dO are copied by all threads, as before, but into panels, too.
 *
 * Changed since step 57: how K and V come, and where a tile lies.
 */
#include "hopper.cuh"
#include "steps.h"

#define ROWS 32                         /* queries of a block */
#define SECTION 16                      /* heads that are worked on at a time under a causal mask */
#define GRID_Z 65535                    /* the most that a grid can have of z */
#define THREADS 256                     /* of a block of the small kernels */
#define QUARTER 128                     /* bytes of 8 x 8 elements of dS: lane 4g + t has the word 4g + t */

/* What a block is made of. KEYS: of a warp, as many as its registers hold. */
struct dim_64  { static constexpr int DIM = 64,  KEYS = 32; };
struct dim_128 { static constexpr int DIM = 128, KEYS = 16; };

template <class ELEMENT, class SIZES> struct backward_config : SIZES {
    typedef ELEMENT T;
    static constexpr int WARPS = 4, BR = ROWS;
    static constexpr int PARTS = SIZES::KEYS / 16;           /* of 16 keys each */
    static constexpr int BC = SIZES::KEYS * WARPS, BOXES = BC / 64; /* of a block; of 64 keys each */
    static constexpr int ACROSS = BR / 8, CHANGES = BC / 8 * ACROSS * QUARTER;    /* quarters of dS^T side by side; bytes */
    static constexpr int BLOCKS = 2; /* on an SM */
};

/* ---- before: D and the like, and sums of 0 */

/*
 * A pack of a row to a thread; rows of all heads, blocks of queries filled up with rows that there are not: their lse is
 * infinite, and P is 0. (P of a query that sees no key, whose lse is -inf, is masked.)
 */
template <int DIM, class T> static __global__ void __launch_bounds__(THREADS)
    prepare_kernel(float *rows, float *sums, const T *O, const float *lse, const T *dO, const float *dlse, int seq_q)
{
    constexpr int PACKS = DIM / PER<T>;
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = i / PACKS; /* of all blocks */
    int padded = (seq_q + ROWS - 1) / ROWS * ROWS, query = (int)(row % padded);
    int64_t at = row / padded * seq_q + query; /* of all rows of a tensor */
    bool there = query < seq_q;
    float sum = 0.0f, o[PER<T>], change[PER<T>];
    if (there) {
        unpack(o, load_once(O + at * DIM + i % PACKS * PER<T>));
        unpack(change, load_once(dO + at * DIM + i % PACKS * PER<T>));
        for (int j = 0; j < PER<T>; j++)
            sum += o[j] * change[j];
    }
    sum = warp_sum<PACKS>(sum);
    float4 *zeros = (float4 *)(sums + i * PER<T>);
    zeros[0] = zeros[1] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (i % PACKS == 0) {
        float *of = rows + row / ROWS * 2 * ROWS + row % ROWS;
        of[0] = there ? lse[at] * LOG2E : INFINITY;
        of[ROWS] = there ? (dlse ? dlse[at] : 0.0f) - sum : 0.0f;
    }
}

/* ---- what a kernel is given, and which part of it is a block's */

struct backward_problem {
    tensor_map k, v;
    const void *q, *o;      /* of elements, as those of dK and dV; o: dO */
    void *dk, *dv;
    const float *rows;      /* (heads of Q, blocks of queries, 2, ROWS): lse log2(e), and -D */
    float *sums;            /* (heads of Q, blocks of queries, ROWS, dim): dQ's */
    int seq_q, seq_k;
    int heads, group;       /* of K, of all batches; heads of Q that share one */
    int blocks;             /* of queries, of a head */
    int more;               /* query i sees the keys below i + more, and below seq_k */
    float c, scale;         /* scale log2(e); scale */
};

/* Keys from first_key on, of a head of K; and blocks of queries that see any of them: from first_row on, of all heads. */
struct key_tile {
    int head, first_key, first_row, blocks;
};

/*
 * Blocks come in the order of x, then y, then z. x: a head of a section; z: which; y: its keys, and those come first that most
 * queries see.
 */
template <class C> INLINE struct key_tile tile_of_block(const backward_problem &p)
{
    int first_key = blockIdx.y * C::BC, first = max(0, first_key + 1 - p.more) / ROWS;
    return { (int)(blockIdx.z * gridDim.x + blockIdx.x), first_key, first * ROWS, p.group * (p.blocks - first) };
}

/* The n-th block of queries of a tile: of which head, and its first row. */
struct query_block {
    int head, row;
};

template <class C> INLINE struct query_block block_of(const backward_problem &p, struct key_tile t, uint32_t n)
{
    uint32_t of_head = t.blocks / p.group;
    return { t.head * p.group + (int)(n / of_head), t.first_row + (int)(n % of_head) * ROWS };
}

template <class C> struct memory {
    typename C::T k[C::BOXES][64 * C::DIM], v[C::BOXES][64 * C::DIM], q[ROWS * C::DIM], o[ROWS * C::DIM];
    unsigned char changes[C::CHANGES];         /* dS^T */
    float rows[2][ROWS];                       /* lse and -D of a block of queries */
    uint64_t keys, values;                     /* barriers: K is here, V is here */
};

template <class C> INLINE void begin_memory(void)
{
    memory<C> &shm = shared<C>();
    if (threadIdx.x == 0) {
        mbarrier_init(shared_address(&shm.keys), 1);
        mbarrier_init(shared_address(&shm.values), 1);
        mbarrier_init_fence();
    }
    __syncthreads();
}

/* ---- copies: thread 0 begins those of keys */

/* K or V. */
template <class C> INLINE void load_keys(uint64_t *barrier, typename C::T (&to)[C::BOXES][64 * C::DIM], const tensor_map *map,
                                         struct key_tile t)
{
    mbarrier_arrive_expect(shared_address(barrier), sizeof to);
    for (int i = 0; i < C::BOXES; i++)
        tma_load(shared_address(to[i]), map, shared_address(barrier), t.first_key + i * 64, 0, t.head, READ_ONCE);
}

/* ---- products, and what is between them */

/*
 * Where chunk `chunk` of row `row` of a tile lies, in bytes, as the copy engine leaves it: in panels of 64 columns and N rows.
 */
template <int N> static __device__ uint32_t swizzled(int row, int chunk)
{
    return chunk / 8 * N * 128 + row * 128 + (chunk ^ row) % 8 * 16;
}

/* k times 16 elements further in a row: bits of the address are flipped, as in step 52; after four times comes the next panel. */
template <int N> static __device__ uint32_t further(uint32_t at, int k)
{
    return (at ^ 32 * (k % 4)) + k / 4 * N * 128;
}

/* Begin to copy a tile, (N, DIM). Rows from `there` on become zeros. */
template <class C, class T, int N> static __device__ void copy_tile(uint32_t to, const T *from, int there)
{
    constexpr int CHUNKS = C::DIM / 8, STEP = 32 * C::WARPS / CHUNKS;
    int first = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    to += swizzled<N>(first, chunk), from += first * C::DIM + chunk * 8, there -= first;
    for (int row = 0; row < N; row += STEP)
        cp_async(to + row * 128, from + row * C::DIM, row < there);
}

/* What a warp holds for its keys: fragments of 16 x 8. */
template <class C> struct keys {
    float dK[C::PARTS][C::DIM / 8][4], dV[C::PARTS][C::DIM / 8][4];
    float P[C::PARTS][C::BR / 8][4], dS[C::PARTS][C::BR / 8][4]; /* of a tile; at first S and dP */
};

/* s = a b^T: 16 M rows of K, or V, times 8 N rows of Q, or dO. a_at, b_at: what the lane passes to the first ldmatrix. */
template <class C, class T, int M, int N> static __device__ void multiply(float (&s)[M][N][4], uint32_t a_at, uint32_t b_at)
{
#pragma unroll
    for (int i = 0; i < 4 * M * N; i++)
        ((float *)s)[i] = 0.0f;
#pragma unroll
    for (int k = 0; k < C::DIM / 16; k++) {
        uint32_t a[M][4];
        for (int part = 0; part < M; part++)
            ldmatrix(a[part], further<64>(a_at, k) + 16 * 128 * part);
        for (int n = 0; n < N / 2; n++) {
            uint32_t b[4]; /* two quarters for 8 queries, two for the next 8 */
            ldmatrix(b, further<C::BR>(b_at, k) + 16 * 128 * n);
            for (int part = 0; part < M; part++) {
                mma(s[part][2 * n], a[part], b[0], b[1], T());
                mma(s[part][2 * n + 1], a[part], b[2], b[3], T());
            }
        }
    }
}

/* sum += s b: P or dS, rounded, times BR rows of dO, or Q. */
template <class C, class T>
static __device__ void add(float (*sum)[C::DIM / 8][4], const float (*s)[C::BR / 8][4], uint32_t b_at)
{
#pragma unroll
    for (int k = 0; k < C::BR / 16; k++) {
        uint32_t a[C::PARTS][4];
        for (int part = 0; part < C::PARTS; part++)
            for (int i = 0; i < 4; i++)
                a[part][i] = word_of_floats(&s[part][2 * k + i / 2][i % 2 * 2], T());
        for (int n = 0; n < C::DIM / 16; n++) {
            uint32_t b[4]; /* two quarters for 8 columns, two for the next 8 */
            ldmatrix_trans(b, further<C::BR>(b_at, n) + 16 * 128 * k);
            for (int part = 0; part < C::PARTS; part++) {
                mma(sum[part][2 * n], a[part], b[0], b[1], T());
                mma(sum[part][2 * n + 1], a[part], b[2], b[3], T());
            }
        }
    }
}

/*
 * S and dP become P = 2^(c S - lse), or 0 where a key is not seen, and dS = P (dP - D). lse, and -D: from the lane's first query
 * on. Of the lane's first column the rows below `visible` are seen; one more each `slope`.
 */
template <class C> INLINE void weigh(keys<C> &me, const float *lse, const float *minus, int visible, int slope, float c)
{
#pragma unroll
    for (int n = 0; n < C::BR / 8; n++) {
        float2 l = *(const float2 *)&lse[8 * n], d = *(const float2 *)&minus[8 * n];
        for (int part = 0; part < C::PARTS; part++)
            for (int i = 0; i < 4; i++) {
                bool seen = 16 * part + i / 2 * 8 < visible + slope * (8 * n + i % 2);
                float P = seen ? ex2(me.P[part][n][i] * c - (i % 2 ? l.y : l.x)) : 0.0f;
                me.P[part][n][i] = P;
                me.dS[part][n][i] = P * (me.dS[part][n][i] + (i % 2 ? d.y : d.x));
            }
    }
}

/* The lane's words of dS, of which each holds two queries of a key, to where `words` points, its first one. */
template <class C, class T> static __device__ void hand_over(const float (*s)[C::BR / 8][4], uint32_t *words)
{
#pragma unroll
    for (int part = 0; part < C::PARTS; part++)
        for (int n = 0; n < C::BR / 8; n++)
            for (int h = 0; h < 2; h++)
                words[((2 * part + h) * C::ACROSS + n) * (QUARTER / 4)] = word_of_floats(&s[part][n][2 * h], T());
}

/* A warp's part of dS K, 32 dims wide, is added to the tile's sums. changes_at, k_at: what the lane passes to ldmatrix first. */
template <class C, class T> static __device__ void add_to_queries(float *sums, uint32_t changes_at, uint32_t k_at)
{
    constexpr int ACROSS = C::DIM / 32, M = C::BR / 16 * ACROSS / C::WARPS; /* warps beside each other; times 16 queries */
    int warp = threadIdx.x / 32, down = warp / ACROSS, across = warp % ACROSS, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float q[M][4][4] = {};
    changes_at += 2 * M * QUARTER * down;
#pragma unroll
    for (int k = 0; k < C::BC / 16; k++) {
        uint32_t a[M][4], b[2][4];
        for (int m = 0; m < M; m++)
            ldmatrix_trans(a[m], changes_at + (2 * C::ACROSS * k + 2 * m) * QUARTER);
        for (int n = 0; n < 2; n++)
            ldmatrix_trans(b[n], further<64>(k_at, 2 * across + n) + k / 4 * (64 * C::DIM * 2) + k % 4 * (16 * 128));
        for (int m = 0; m < M; m++)
            for (int n = 0; n < 4; n++)
                mma(q[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1], T());
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < 4; n++)
            for (int i = 0; i < 4; i++) {
                int query = 16 * (M * down + m) + i / 2 * 8 + g, dim = 32 * across + 8 * n + 2 * t + i % 2;
                atomicAdd(&sums[query * C::DIM + dim], q[m][n][i]);
            }
}

/* to: (there, DIM): the warp's rows of dV or dK, times `scale`. */
template <class C, class T> static __device__ void store(T *to, const float (*sum)[C::DIM / 8][4], int there, float scale)
{
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int part = 0; part < C::PARTS; part++)
        for (int h = 0; h < 2; h++) {
            int row = 16 * part + 8 * h + g;
            if (row < there)
                for (int n = 0; n < C::DIM / 8; n++) {
                    float two[2] = { sum[part][n][2 * h] * scale, sum[part][n][2 * h + 1] * scale };
                    *(uint32_t *)(to + row * C::DIM + 8 * n + 2 * t) = word_of_floats(two, T());
                }
        }
}

template <class C> INLINE void consume(const backward_problem &p)
{
    typedef typename C::T T;
    memory<C> &shm = shared<C>();
    unsigned char *changes = shm.changes;
    float (*rows)[ROWS] = shm.rows;
    struct key_tile t = tile_of_block<C>(p);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first_key = t.first_key + warp * C::KEYS, pair = lane % 4 * 2;
    const int slope = p.more < p.seq_k; /* query i sees the first more + slope i keys */

    /* This lane's row for ldmatrix in 16 x 16. Quarters: below each other, then side by side; or the other way. */
    const uint32_t below = swizzled<ROWS>(lane % 16, lane / 16), beside = swizzled<ROWS>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    const uint32_t k_at = shared_address(shm.k), v_at = shared_address(shm.v);
    const uint32_t q_at = shared_address(shm.q), o_at = shared_address(shm.o);
    const uint32_t changes_at = shared_address(changes) + (lane / 16 * C::ACROSS + lane / 8 % 2) * QUARTER + lane % 8 * 16;
    const uint32_t a_at = warp * C::KEYS / 64 * (64 * C::DIM * 2) + warp * C::KEYS % 64 * 128 + below; /* its keys in K and V */

    keys<C> me = {};
    if (threadIdx.x == 0) {
        load_keys<C>(&shm.keys, shm.k, &p.k, t);
        load_keys<C>(&shm.values, shm.v, &p.v, t);
    }
    mbarrier_wait(shared_address(&shm.keys), 0);
    mbarrier_wait(shared_address(&shm.values), 0);
#pragma unroll 1
    for (uint32_t n = 0; n < t.blocks; n++) {
        struct query_block b = block_of<C>(p, t, n);
        const int64_t query = (int64_t)b.head * p.seq_q + b.row;
        const int block = b.head * p.blocks + b.row / ROWS; /* of all heads */
        copy_tile<C, T, ROWS>(q_at, (const T *)p.q + query * C::DIM, p.seq_q - b.row);
        copy_tile<C, T, ROWS>(o_at, (const T *)p.o + query * C::DIM, p.seq_q - b.row);
        if (threadIdx.x < 2 * ROWS)
            rows[0][threadIdx.x] = p.rows[(int64_t)block * 2 * ROWS + threadIdx.x];
        cp_async_wait_all();
        __syncthreads();
        multiply<C, T>(me.P, k_at + a_at, q_at + beside);
        multiply<C, T>(me.dS, v_at + a_at, o_at + beside);
        weigh(me, &rows[0][pair], &rows[1][pair], p.more + slope * (b.row + pair) - first_key - lane / 4, slope, p.c);
        hand_over<C, T>(me.dS, (uint32_t *)(changes + warp * C::KEYS / 8 * C::ACROSS * QUARTER) + lane);
        add<C, T>(me.dV, me.P, o_at + below);
        add<C, T>(me.dK, me.dS, q_at + below);
        __syncthreads(); /* dS is complete */
        add_to_queries<C, T>(p.sums + (int64_t)block * (ROWS * C::DIM), changes_at, k_at + below);
        __syncthreads(); /* nobody reads this block any more */
    }
    const int64_t row = (int64_t)t.head * p.seq_k + first_key;
    store<C, T>((T *)p.dv + row * C::DIM, me.dV, p.seq_k - first_key, 1.0f);
    store<C, T>((T *)p.dk + row * C::DIM, me.dK, p.seq_k - first_key, p.scale);
}

template <class C> static __global__ void __launch_bounds__(32 * C::WARPS, C::BLOCKS)
    boxed_backward_kernel(const __grid_constant__ struct backward_problem p)
{
    needs_hopper();
    if constexpr (HOPPER) {
        if (blockIdx.z * gridDim.x + blockIdx.x >= p.heads) /* the last section may have fewer */
            return;
        begin_memory<C>();
        consume<C>(p);
    }
}

/* ---- behind: dQ from its sums */

/* dQ = scale times the sums. A pack of a row to a thread, as in prepare_kernel. */
template <int DIM, class T> static __global__ void __launch_bounds__(THREADS)
    convert_kernel(T *dQ, const float *sums, float scale, int seq_q)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PER<T>, row = i / DIM; /* of all blocks */
    int padded = (seq_q + ROWS - 1) / ROWS * ROWS, query = (int)(row % padded);
    float v[PER<T>];
    for (int j = 0; j < PER<T>; j++)
        v[j] = scale * sums[i + j];
    if (query < seq_q)
        stream_pack(dQ + (row / padded * seq_q + query) * DIM + i % DIM, make_pack<T>(v));
}

/* ---- launchers */

template <class C, class T>
static void launch_for(T *dQ, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *O, const float *lse, const T *dO,
                       const float *dlse, struct attention a, void *workspace, cudaStream_t stream)
{
    static_assert(C::BLOCKS * sizeof(memory<C>) <= SHARED_BYTES, "more than a block's shared memory");
    static_assert(C::PARTS * (C::DIM + C::BR) <= registers_of_thread(C::BLOCKS * 32 * C::WARPS),
                  "the sums and scores are more than a thread's registers");
    struct backward_problem p;
    int64_t heads = a.batch * a.heads, kv_heads = a.batch * a.kv_heads, rows = heads * ceil_div(a.seq_q, ROWS) * ROWS;
    if (!attention_map(&p.k, K, kv_heads, a.seq_k, C::DIM, 64, C::DIM / PANEL) ||
        !attention_map(&p.v, V, kv_heads, a.seq_k, C::DIM, 64, C::DIM / PANEL))
        return;
    float *sums = (float *)workspace;
    float *of_rows = sums + rows * C::DIM;
    p.q = Q, p.o = dO, p.dk = dK, p.dv = dV;
    p.sums = sums, p.rows = of_rows;
    p.seq_q = (int)a.seq_q, p.seq_k = (int)a.seq_k;
    p.heads = (int)kv_heads, p.group = (int)attention_group(a);
    p.blocks = (int)ceil_div(a.seq_q, ROWS);
    p.more = a.causal ? p.seq_k - p.seq_q + 1 : p.seq_k;
    p.c = exponent_scale(a.scale) * scale_sign(a.scale), p.scale = a.scale;

    int section = max(min(a.causal ? SECTION : 1, p.heads), p.heads / GRID_Z + 1);
    dim3 grid(section, (p.seq_k + C::BC - 1) / C::BC, (p.heads + section - 1) / section);
    cudaFuncSetAttribute(boxed_backward_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<C>));
    unsigned small = (unsigned)(rows * (C::DIM / PER<T>) / THREADS);
    prepare_kernel<C::DIM><<<small, THREADS, 0, stream>>>(of_rows, sums, O, lse, dO, dlse, p.seq_q);
    boxed_backward_kernel<C><<<grid, 32 * C::WARPS, sizeof(memory<C>), stream>>>(p);
    convert_kernel<C::DIM><<<small, THREADS, 0, stream>>>(dQ, sums, p.scale, p.seq_q);
}

/* dQ's sums, and two floats a query. */
size_t boxed_backward_workspace(struct attention p, enum dtype)
{
    return (size_t)(p.batch * p.heads * ceil_div(p.seq_q, ROWS) * ROWS * (p.dim + 2)) * sizeof(float);
}

template <class T>
static void launch(T *dQ, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *O, const float *lse, const T *dO,
                   const float *dlse, struct attention p, void *workspace, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, p) || !takes_16_bits(dO, dQ, dK, dV, p))
        return;
    if (p.dim == 64)
        launch_for<backward_config<T, dim_64>>(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
    else
        launch_for<backward_config<T, dim_128>>(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

void boxed_backward_fp16_gpu(fp16 *dQ, fp16 *dK, fp16 *dV, const fp16 *Q, const fp16 *K, const fp16 *V, const fp16 *O,
                                   const float *lse, const fp16 *dO, const float *dlse, struct attention p, void *workspace,
                                   cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

void boxed_backward_bf16_gpu(bf16 *dQ, bf16 *dK, bf16 *dV, const bf16 *Q, const bf16 *K, const bf16 *V, const bf16 *O,
                                   const float *lse, const bf16 *dO, const float *dlse, struct attention p, void *workspace,
                                   cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

/*
 * Step 63, across backward: dQ by wgmma, too, from dS as the tensor cores read it in shared memory. Needs sm_90a.
 *
 * A block owns BC keys of a head of K and V, 64 for each of its warpgroups, and walks over the queries that see them, 64 at a
 * time, through all heads of Q that share these keys:
 *
 *     S^T  = K Q^T     P^T  = 2^(c S^T - lse)      dV += P^T dO
 *     dP^T = V dO^T    dS^T = P^T (dP^T - D)       dK += dS^T Q      all by a warpgroup, for its keys
 *                                                  dQ^T = K^T dS^T   for all keys of the block
 *
 * P and dS stay in registers, and dV and dK to the end; dS goes to shared memory besides, for dQ, and a fence stands between. At
 * heads of 128 each of two warpgroups computes 64 dims of dQ; at heads of 64 three warpgroups take turns.
 *
 * Changed since step 62: how dS lies in shared memory; who computes which part of dQ, and how.
 */
#include "hopper.cuh"
#include "steps.h"

#define ROWS WARPGROUP_ROWS  /* keys of a warpgroup; queries of a block; dims of a part of dQ: 64 of each */
#define SECTION 16           /* heads that are worked on at a time under a causal mask */
#define GRID_Z 65535         /* the most that a grid can have of z */
#define THREADS 256          /* of a block of the small kernels */

/* What a block is made of. STAGES: places for blocks of Q, and for as many of dO. */
struct dim_64  { static constexpr int DIM = 64,  WARPGROUPS = 3, STAGES = 3; };
struct dim_128 { static constexpr int DIM = 128, WARPGROUPS = 2, STAGES = 3; };

template <class ELEMENT, class SIZES> struct backward_config : SIZES {
    typedef ELEMENT T;
    static constexpr int BC = ROWS * SIZES::WARPGROUPS;     /* keys of a block */
    static constexpr int BOX = ROWS * SIZES::DIM;           /* elements of 64 rows of Q, K, V or dO */
    static constexpr int PARTS = SIZES::DIM / ROWS;         /* of dQ, each a warpgroup's */
    static constexpr bool TURNS = PARTS < SIZES::WARPGROUPS; /* there is not one for everybody */
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
    tensor_map q, k, v, o, dk, dv; /* o: dO */
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

/* The first query that sees a key. */
template <class C> INLINE int first_to_see(const backward_problem &p, int key)
{
    return key < p.seq_k ? key + 1 - p.more : INT_MAX / 2;
}

template <class C> struct memory {
    typename C::T k[C::WARPGROUPS][C::BOX], v[C::WARPGROUPS][C::BOX], q[C::STAGES][C::BOX], o[C::STAGES][C::BOX];
    typename C::T ds[2][C::BC * ROWS];         /* dS^T: a row for each key */
    float rows[C::STAGES][2][ROWS];            /* lse and -D of a block of queries */
    uint64_t keys, values, full[C::STAGES];    /* barriers: K is here, V is here, a block of queries is here */
};

template <class C> INLINE void begin_memory(void)
{
    memory<C> &shm = shared<C>();
    if (threadIdx.x == 0) {
        mbarrier_init(shared_address(&shm.keys), 1);
        mbarrier_init(shared_address(&shm.values), 1);
        for (int i = 0; i < C::STAGES; i++)
            mbarrier_init(shared_address(&shm.full[i]), 1);
        mbarrier_init_fence();
    }
    __syncthreads();
}

/* ---- copies: thread 0 begins them */

/* K or V, a box for each warpgroup. */
template <class C> INLINE void load_keys(uint64_t *barrier, typename C::T (&to)[C::WARPGROUPS][C::BOX], const tensor_map *map,
                                         struct key_tile t)
{
    mbarrier_arrive_expect(shared_address(barrier), sizeof to);
    for (int i = 0; i < C::WARPGROUPS; i++)
        tma_load(shared_address(to[i]), map, shared_address(barrier), t.first_key + i * ROWS, 0, t.head, READ_ONCE);
}

/* The n-th block of queries, with what belongs to it, to a place that nobody reads. Beyond the last one there is none. */
template <class C> INLINE void load_block(const backward_problem &p, struct key_tile t, uint32_t n)
{
    memory<C> &shm = shared<C>();
    if (n >= t.blocks)
        return;
    struct query_block b = block_of<C>(p, t, n);
    uint32_t full = shared_address(&shm.full[n % C::STAGES]);
    mbarrier_arrive_expect(full, sizeof shm.q[0] + sizeof shm.o[0] + sizeof shm.rows[0]);
    tma_load(shared_address(shm.q[n % C::STAGES]), &p.q, full, b.row, 0, b.head, KEEP_IN_L2);
    bulk_load(shared_address(shm.rows[n % C::STAGES]), p.rows + ((int64_t)b.head * p.blocks + b.row / ROWS) * (2 * ROWS),
              sizeof shm.rows[0], full);
    tma_load(shared_address(shm.o[n % C::STAGES]), &p.o, full, b.row, 0, b.head, KEEP_IN_L2);
}

/* ---- products, and what is between them */

template <class C> struct keys {
    int warpgroup, key;                         /* the first of this thread's two keys, 8 apart */
    float dk[C::DIM / 2], dv[C::DIM / 2];       /* its share of 64 keys x DIM dims */
    float s[ROWS / 2], dp[ROWS / 2];            /* and of 64 keys x 64 queries */
    uint32_t weights[ROWS / 4], ds[ROWS / 4];   /* P and dS in 16 bits, as operands */
};

/* Whether this warpgroup computes dQ, or a part of it, of block n. */
template <class C> INLINE bool has_turn(const keys<C> &me, uint32_t n)
{
    return !C::TURNS || n % C::WARPGROUPS == me.warpgroup;
}

/*
 * The low half of a descriptor, which alone says where a matrix is. Where registers are short the compiler must not see through
 * it: all that is added to it would be computed ahead of the loop, dozens of numbers, and spilled.
 */
template <class C> INLINE uint32_t matrix(const void *at, int panel_bytes)
{
    uint32_t low = (uint32_t)wgmma_descriptor(shared_address(at), panel_bytes);
    if (C::DIM == 128)
        asm volatile("" : "+r"(low));
    return low;
}

/* Begin s = A B^T, or s += A B^T, in a group of its own: both have 64 rows of DIM elements. */
template <class C> INLINE void begin_square(float (&s)[ROWS / 2], uint32_t a, uint32_t b, bool add)
{
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < C::DIM / 16; i++)
        wgmma_scores(s, wgmma_descriptor(a + i / 4 * (ROWS * 128 / 16) + i % 4 * 2),
                     wgmma_descriptor(b + i / 4 * (ROWS * 128 / 16) + i % 4 * 2), add || i > 0, typename C::T());
    wgmma_commit();
}

/* Begin S of the n-th block of queries; and dP - D, which begins at -D: then nobody subtracts it. */
template <class C> INLINE void begin_scores(keys<C> &me, uint32_t n)
{
    memory<C> &shm = shared<C>();
    mbarrier_wait(shared_address(&shm.full[n % C::STAGES]), n / C::STAGES & 1);
    forget(me.s);
    begin_square<C>(me.s, matrix<C>(shm.k[me.warpgroup], 0), matrix<C>(shm.q[n % C::STAGES], 0), false);
}

template <class C> INLINE void begin_changes(keys<C> &me, uint32_t n)
{
    memory<C> &shm = shared<C>();
    uint32_t minus = shared_address(shm.rows[n % C::STAGES][1]) + lane() % 4 * 8;
#pragma unroll
    for (int i = 0; i < ROWS / 2; i += 4) {
        float2 of = load_pair(minus + i * 8);
        me.dp[i] = me.dp[i + 2] = of.x, me.dp[i + 1] = me.dp[i + 3] = of.y;
    }
    begin_square<C>(me.dp, matrix<C>(shm.v[me.warpgroup], 0), matrix<C>(shm.o[n % C::STAGES], 0), true);
}

/* sum += A B: a, 64 keys x 64 queries, in registers; b, queries x DIM dims, in shared memory. Not a group yet. */
template <class C> INLINE void add_product(float (&sum)[C::DIM / 2], uint32_t (&a)[ROWS / 4], const typename C::T (&at)[C::BOX])
{
    uint32_t b = matrix<C>(at, ROWS * 128);
    arrived(sum);
    arrived(a);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < ROWS / 16; i++)
        wgmma_values(sum, a + 4 * i, wgmma_descriptor(b + i * (16 * 128 / 16)), true, typename C::T());
}

/* Begin dQ^T of the n-th block, or this warpgroup's 64 dims of it, in a group of its own. */
template <class C> INLINE void begin_queries(float (&dq)[ROWS / 2], const keys<C> &me, uint32_t n)
{
    memory<C> &shm = shared<C>();
    uint32_t k = matrix<C>(&shm.k[0][C::TURNS ? 0 : me.warpgroup * (ROWS * 64)], 0), ds = matrix<C>(shm.ds[n % 2], 0);
    forget(dq);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < C::BC / 16; i++)
        wgmma_across(dq, wgmma_descriptor(k + i / 4 * (sizeof shm.k[0] / 16) + i % 4 * (16 * 128 / 16)),
                     wgmma_descriptor(ds + i * (16 * 128 / 16)), i > 0, typename C::T());
    wgmma_commit();
}

/* P = 0 where a query does not see a key: in row h, columns below first[h]. */
template <int N> INLINE void mask_columns(float (&s)[N], int first_0, int first_1)
{
    int column = lane() % 4 * 2;
#pragma unroll
    for (int i = 0; i < N; i++)
        if (i / 4 * 8 + i % 2 < (i / 2 % 2 ? first_1 : first_0) - column)
            s[i] = 0.0f;
}

/* P and dS of the n-th block, queries from `row` on. S and dP are the last groups that were begun. */
template <class C> INLINE void differentiate(keys<C> &me, const backward_problem &p, uint32_t n, int row, bool masked)
{
    uint32_t lse = shared_address(shared<C>().rows[n % C::STAGES][0]) + lane() % 4 * 8;
    float2 lses[ROWS / 8];
#pragma unroll
    for (int i = 0; i < ROWS / 8; i++) /* early: they are here when the scores are */
        lses[i] = load_pair(lse + i * 32);
    wgmma_wait<1>();
    arrived(me.s);
#pragma unroll
    for (int i = 0; i < ROWS / 2; i += 4) {
        float2 of = lses[i / 4];
        me.s[i] = ex2(fmaf(me.s[i], p.c, -of.x)), me.s[i + 1] = ex2(fmaf(me.s[i + 1], p.c, -of.y));
        me.s[i + 2] = ex2(fmaf(me.s[i + 2], p.c, -of.x)), me.s[i + 3] = ex2(fmaf(me.s[i + 3], p.c, -of.y));
    }
    if (masked)
        mask_columns(me.s, first_to_see<C>(p, me.key) - row, first_to_see<C>(p, me.key + 8) - row);
    pack_weights(me.weights, me.s, typename C::T());
    wgmma_wait<0>();
    arrived(me.dp);
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++)
        me.s[i] *= me.dp[i];
    pack_weights(me.ds, me.s, typename C::T());
}

/* dS^T of the n-th block to shared memory, for dQ. */
template <class C> INLINE void hand_over(keys<C> &me, uint32_t n)
{
    memory<C> &shm = shared<C>();
    uint32_t row = lane() % 16, box = shared_address(shm.ds[n % 2]) + (threadIdx.x / 32 * 16 + row) * 128;
#pragma unroll
    for (int i = 0; i < 8; i += 2)
        stmatrix(box + ((i + lane() / 16) ^ row % 8) * 16, me.ds + 2 * i);
    fence_async_shared();
}

/* dQ^T of a block, or this warpgroup's part, to its sums, (ROWS, dim), number by number. */
template <class C> INLINE void put_queries(const float (&dq)[ROWS / 2], const keys<C> &me, float *sums)
{
    int dim = (C::TURNS ? 0 : me.warpgroup * 64) + row_of_thread(), query = lane() % 4 * 2;
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++)
        atomicAdd(&sums[(i / 4 * 8 + query + i % 2) * C::DIM + dim + i / 2 % 2 * 8], dq[i]);
}

/* dQ of the n-th block. */
template <class C> INLINE void queries(const keys<C> &me, uint32_t n, float *sums)
{
    float dq[ROWS / 2];
    begin_queries(dq, me, n);
    wgmma_wait<0>();
    arrived(dq);
    put_queries(dq, me, sums);
}

/* The products with P and dS of the n-th block, and its dQ. */
template <class C> INLINE void multiply(keys<C> &me, const backward_problem &p, struct key_tile t, uint32_t n, float *sums)
{
    memory<C> &shm = shared<C>();
    add_product<C>(me.dv, me.weights, shm.o[n % C::STAGES]);
    hand_over(me, n);
    add_product<C>(me.dk, me.ds, shm.q[n % C::STAGES]);
    wgmma_commit();
    __syncthreads(); /* all dS is there, and nobody reads the block before this one */
    if (threadIdx.x == 0)
        load_block<C>(p, t, n + C::STAGES - 1);
    if (has_turn(me, n))
        queries(me, n, sums);
}

/* dV and dK are complete. */
template <class C> INLINE void end_block(keys<C> &me)
{
    arrived(me.dv);
    arrived(me.dk);
    arrived(me.weights);
    arrived(me.ds);
}

/* From the n-th block to the next. */
template <class C> INLINE void next_block(keys<C> &me, uint32_t n)
{
    wgmma_wait<0>();
    end_block(me);
    begin_scores(me, n + 1);
    begin_changes(me, n + 1);
}

/* dK or dV of the warpgroup's keys leaves through the box that K or V came in. */
template <class C> INLINE void store_keys(const float (&x)[C::DIM / 2], const tensor_map *map, typename C::T (&through)[C::BOX],
                                          int key, int head)
{
    uint32_t box = shared_address(through) + threadIdx.x % 128 / 32 * 16 * 128;
#pragma unroll
    for (int panel = 0; panel < C::DIM / PANEL; panel++, box += ROWS * 128) {
        fill_box(box, x, panel, typename C::T());
        if (lane() == 0)
            tma_store(map, box, key + threadIdx.x % 128 / 32 * 16, panel, head);
    }
}

/* After the last block: dV and dK out. */
template <class C> INLINE void finish(keys<C> &me, const backward_problem &p, struct key_tile t)
{
    memory<C> &shm = shared<C>();
    int first_key = t.first_key + me.warpgroup * ROWS;
    wgmma_wait<0>();
    end_block(me);
    __syncthreads(); /* everybody is through with K and V */
    store_keys<C>(me.dv, &p.dv, shm.v[me.warpgroup], first_key, t.head);
    rescale(me.dk, make_float2(p.scale, p.scale));
    store_keys<C>(me.dk, &p.dk, shm.k[me.warpgroup], first_key, t.head);
    if (lane() == 0)
        tma_store_wait_read<0>(); /* shared memory must last until the boxes have been read */
}

template <class C> INLINE void consume(const backward_problem &p, int warpgroup)
{
    memory<C> &shm = shared<C>();
    struct key_tile t = tile_of_block<C>(p);
    keys<C> me = { warpgroup, t.first_key + warpgroup * ROWS + row_of_thread() }; /* and zeros */
    int unmasked = first_to_see<C>(p, t.first_key + warpgroup * ROWS + ROWS - 1); /* from this query on all see all keys */
    uint32_t blocks = uniform(t.blocks), n = 0;
    if (threadIdx.x == 0) {
        load_keys<C>(&shm.keys, shm.k, &p.k, t);
        load_block<C>(p, t, 0);
        load_keys<C>(&shm.values, shm.v, &p.v, t);
        for (int i = 1; i < C::STAGES - 1; i++)
            load_block<C>(p, t, i);
    }
    mbarrier_wait(shared_address(&shm.keys), 0);
    begin_scores(me, 0);
    mbarrier_wait(shared_address(&shm.values), 0);
    wgmma_wait<0>(); /* once; the compiler would wait by itself */
    begin_changes(me, 0);
#pragma unroll 1
    for (;;) {
        struct query_block b = block_of<C>(p, t, n);
        differentiate(me, p, n, b.row, b.row < unmasked);
        multiply(me, p, t, n, p.sums + ((int64_t)b.head * p.blocks + b.row / ROWS) * (ROWS * C::DIM));
        if (++n == blocks)
            break;
        next_block(me, n - 1);
    }
    finish(me, p, t);
}

template <class C> static __global__ void __launch_bounds__(128 * C::WARPGROUPS, 1)
    across_backward_kernel(const __grid_constant__ struct backward_problem p)
{
    needs_hopper();
    if constexpr (HOPPER) {
        if (blockIdx.z * gridDim.x + blockIdx.x >= p.heads) /* the last section may have fewer */
            return;
        begin_memory<C>();
        consume<C>(p, uniform(threadIdx.x / 128));
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
    static_assert(sizeof(memory<C>) <= SHARED_BYTES, "more than a block's shared memory");
    struct backward_problem p;
    int64_t heads = a.batch * a.heads, kv_heads = a.batch * a.kv_heads, rows = heads * ceil_div(a.seq_q, ROWS) * ROWS;
    if (!attention_map(&p.k, K, kv_heads, a.seq_k, C::DIM, ROWS, C::DIM / PANEL) ||
        !attention_map(&p.v, V, kv_heads, a.seq_k, C::DIM, ROWS, C::DIM / PANEL) ||
        !attention_map(&p.q, Q, heads, a.seq_q, C::DIM, ROWS, C::DIM / PANEL) ||
        !attention_map(&p.o, dO, heads, a.seq_q, C::DIM, ROWS, C::DIM / PANEL) ||
        !attention_map(&p.dk, dK, kv_heads, a.seq_k, C::DIM, 16, 1) ||
        !attention_map(&p.dv, dV, kv_heads, a.seq_k, C::DIM, 16, 1))
        return;
    float *sums = (float *)workspace;
    float *of_rows = sums + rows * C::DIM;
    p.sums = sums, p.rows = of_rows;
    p.seq_q = (int)a.seq_q, p.seq_k = (int)a.seq_k;
    p.heads = (int)kv_heads, p.group = (int)attention_group(a);
    p.blocks = (int)ceil_div(a.seq_q, ROWS);
    p.more = a.causal ? p.seq_k - p.seq_q + 1 : p.seq_k;
    p.c = exponent_scale(a.scale) * scale_sign(a.scale), p.scale = a.scale;

    int section = max(min(a.causal ? SECTION : 1, p.heads), p.heads / GRID_Z + 1);
    dim3 grid(section, (p.seq_k + C::BC - 1) / C::BC, (p.heads + section - 1) / section);
    cudaFuncSetAttribute(across_backward_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<C>));
    unsigned small = (unsigned)(rows * (C::DIM / PER<T>) / THREADS);
    prepare_kernel<C::DIM><<<small, THREADS, 0, stream>>>(of_rows, sums, O, lse, dO, dlse, p.seq_q);
    across_backward_kernel<C><<<grid, 128 * C::WARPGROUPS, sizeof(memory<C>), stream>>>(p);
    convert_kernel<C::DIM><<<small, THREADS, 0, stream>>>(dQ, sums, p.scale, p.seq_q);
}

/* dQ's sums, and two floats a query. */
size_t across_backward_workspace(struct attention p, enum dtype)
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

void across_backward_fp16_gpu(fp16 *dQ, fp16 *dK, fp16 *dV, const fp16 *Q, const fp16 *K, const fp16 *V, const fp16 *O,
                              const float *lse, const fp16 *dO, const float *dlse, struct attention p, void *workspace,
                              cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

void across_backward_bf16_gpu(bf16 *dQ, bf16 *dK, bf16 *dV, const bf16 *Q, const bf16 *K, const bf16 *V, const bf16 *O,
                              const float *lse, const bf16 *dO, const float *dlse, struct attention p, void *workspace,
                              cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

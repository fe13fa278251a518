/*
 * Step 67, the gradient of attention, the same bits each time: blocks of keys add to dQ one after the other. Needs sm_90a.
 *
 * A block owns BC keys of a head of K and V, 64 for each warpgroup that computes, and walks over the queries that see them, 64 at
 * a time, through all heads of Q that share these keys. Scores are transposed as in step 52:
 *
 *     S^T  = K Q^T     P^T  = 2^(c S^T - lse)      dV += P^T dO
 *     dP^T = V dO^T    dS^T = P^T (dP^T - D)       dK += dS^T Q      all by a warpgroup, for its keys
 *                                                  dQ^T = K^T dS^T   for all keys of the block
 *
 * P and dS stay in registers, and dV and dK to the end; dS goes to shared memory besides, for dQ. That is computed a block of
 * queries late: by then everybody's dS is there, and nobody waits for it. At heads of 128 each of two warpgroups computes 64 dims
 * of it; at heads of 64 three warpgroups take turns. It leaves through shared memory, too, from where a warp of the producers has
 * the copy engine add it to sums in global memory.
 *
 * Blocks of keys add in the order of their keys: a count for each block of queries says who is next. All walk over the queries
 * from the last to the first: blocks that begin together then come to a block of queries together, mask or not, and hardly wait.
 * The first of all stores instead of adding: nobody needs zeros.
 *
 * Changed since step 66: who adds when, the order of the queries, and which keys a block gets.
 */
#include "hopper.cuh"
#include "steps.h"

#define ROWS WARPGROUP_ROWS  /* keys of a warpgroup; queries of a block; dims of a part of dQ: 64 of each */
#define SECTION 32768        /* queries of the heads of K that are worked on at a time: what they share stays in L2 */
#define THREADS 256          /* of a block of the small kernels */

/* What a block is made of. STAGES: places for blocks of Q, and for as many of dO. REGISTERS: of a thread that computes. */
struct dim_64  { static constexpr int DIM = 64,  WARPGROUPS = 3, STAGES = 4, REGISTERS = 160; };
struct dim_128 { static constexpr int DIM = 128, WARPGROUPS = 2, STAGES = 2, REGISTERS = 240; };

template <class ELEMENT, class SIZES> struct backward_config : SIZES {
    typedef ELEMENT T;
    static constexpr int BC = ROWS * SIZES::WARPGROUPS;     /* keys of a block */
    static constexpr int BOX = ROWS * SIZES::DIM;           /* elements of 64 rows of Q, K, V or dO */
    static constexpr int PARTS = SIZES::DIM / ROWS;         /* of dQ, each a warpgroup's */
    static constexpr bool TURNS = PARTS < SIZES::WARPGROUPS; /* there is not one for everybody */
    static constexpr int PRODUCER_REGISTERS = registers_left(SIZES::WARPGROUPS, SIZES::REGISTERS);
};

/* ---- before: D and the like, and counts of 0 */

/*
 * A pack of a row to a thread; rows of all heads, blocks of queries filled up with rows that there are not: their lse is
 * infinite, and P is 0. (P of a query that sees no key, whose lse is -inf, is masked.)
 */
template <int DIM, class T> static __global__ void __launch_bounds__(THREADS)
    prepare_kernel(float *rows, unsigned *added, unsigned *begun, const T *O, const float *lse, const T *dO, const float *dlse,
                   int seq_q)
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
    if (i % PACKS == 0) {
        float *of = rows + row / ROWS * 2 * ROWS + row % ROWS;
        of[0] = there ? lse[at] * LOG2E : INFINITY;
        of[ROWS] = there ? (dlse ? dlse[at] : 0.0f) - sum : 0.0f;
    }
    if (i % (PACKS * ROWS) == 0)
        added[row / ROWS] = 0;
    if (i == 0)
        *begun = 0;
}

/* ---- what a kernel is given, and which part of it is a block's */

struct backward_problem {
    tensor_map q, k, v, o, dk, dv; /* o: dO */
    const float *rows;      /* (heads of Q, blocks of queries, 2, ROWS): lse log2(e), and -D */
    float *sums;            /* (heads of Q, blocks of queries, PARTS, ROWS * 64): dQ's, as registers lie */
    unsigned *added, *begun; /* (heads of Q, blocks of queries): blocks of keys that have added; and blocks that have begun */
    int seq_q, seq_k;
    int heads, group;       /* of K, of all batches; heads of Q that share one */
    int section;            /* heads of K that are worked on at a time */
    int blocks, key_blocks; /* of queries and of keys, of a head */
    int more;               /* query i sees the keys below i + more, and below seq_k */
    float c, scale;         /* scale log2(e); scale */
};

/* Keys from first_key on, of a head of K; and blocks of queries that see any of them: from first_row on, of all heads. */
struct key_tile {
    int head, first_key, first_row, blocks;
};

/*
 * A block takes a number when it begins. In the order of these come the first keys of each head of a section, then the next ones.
 * So a block waits only for blocks that have begun, in whatever order a GPU begins them: one of them can always go on.
 */
template <class C> INLINE struct key_tile take_tile(const backward_problem &p)
{
    int i = count_around(p.begun, UINT_MAX), first_head = i / (p.section * p.key_blocks) * p.section;
    int heads = min(p.section, p.heads - first_head), in_section = i - first_head * p.key_blocks;
    int first_key = in_section / heads * C::BC, first = max(0, first_key + 1 - p.more) / ROWS;
    return { first_head + in_section % heads, first_key, first * ROWS, p.group * (p.blocks - first) };
}

/* The first query that sees a key. */
template <class C> INLINE int first_to_see(const backward_problem &p, int key)
{
    return key < p.seq_k ? key + 1 - p.more : INT_MAX / 2;
}

template <class C> struct memory {
    typename C::T k[C::WARPGROUPS][C::BOX], v[C::WARPGROUPS][C::BOX], q[C::STAGES][C::BOX], o[C::STAGES][C::BOX];
    typename C::T ds[2][C::BC * ROWS];         /* dS^T: a row for each key */
    float dq[2][C::PARTS][ROWS * 64];          /* dQ^T on its way out */
    float rows[C::STAGES][2][ROWS];            /* lse and -D of a block of queries */
    struct ring<C::STAGES> queries, changes;   /* of q and rows; of o */
    struct ring<2> scores, sums;               /* of ds; of dq */
    uint64_t keys, values;                     /* barriers: K is here, V is here */
    struct key_tile tile;                      /* the block's */
};

template <class C> INLINE void begin_memory(const backward_problem &p)
{
    memory<C> &shm = shared<C>();
    if (threadIdx.x == 0) {
        shm.tile = take_tile<C>(p);
        ring_init(shm.queries, C::WARPGROUPS);
        ring_init(shm.changes, C::WARPGROUPS);
        ring_init(shm.scores, C::PARTS, 4 * C::WARPGROUPS); /* all warps write; warpgroups read that compute dQ */
        ring_init(shm.sums, 1, 4 * C::PARTS);
        mbarrier_init(shared_address(&shm.keys), 1);
        mbarrier_init(shared_address(&shm.values), 1);
        mbarrier_init_fence();
    }
    __syncthreads();
}

/* ---- producers */

/* K or V, a box for each warpgroup. */
template <class C> INLINE void load_keys(uint64_t *barrier, typename C::T (&to)[C::WARPGROUPS][C::BOX], const tensor_map *map,
                                         struct key_tile t)
{
    mbarrier_arrive_expect(shared_address(barrier), sizeof to);
    for (int i = 0; i < C::WARPGROUPS; i++)
        tma_load(shared_address(to[i]), map, shared_address(barrier), t.first_key + i * ROWS, 0, t.head, READ_ONCE);
}

/* One thread: all that comes in. */
template <class C> INLINE void load_blocks(const backward_problem &p, struct key_tile t)
{
    memory<C> &shm = shared<C>();
    load_keys<C>(&shm.keys, shm.k, &p.k, t);
    uint32_t n = 0;
    for (int head = t.head * p.group; head < (t.head + 1) * p.group; head++)
        for (int row = (p.blocks - 1) * ROWS; row >= t.first_row; row -= ROWS, n++) {
            uint32_t full = shared_address(&shm.queries.full[n % C::STAGES]);
            wait_empty(shm.queries, n);
            mbarrier_arrive_expect(full, sizeof shm.q[0] + sizeof shm.rows[0]);
            tma_load(shared_address(shm.q[n % C::STAGES]), &p.q, full, row, 0, head, KEEP_IN_L2);
            bulk_load(shared_address(shm.rows[n % C::STAGES]), p.rows + ((int64_t)head * p.blocks + row / ROWS) * (2 * ROWS),
                      sizeof shm.rows[0], full);
            if (n == 0)
                load_keys<C>(&shm.values, shm.v, &p.v, t);
            load(shm.changes, n, shm.o, sizeof shm.o[0], &p.o, row, head, KEEP_IN_L2);
        }
}

/*
 * A thread of each of two other warps: what goes out of one place of dQ while the others compute. To a block of queries it adds
 * when all blocks of keys before its own have added, and counts when that is in memory, and no longer on its way. By then the
 * next block of queries may wait to go out: one thread would be too slow.
 */
template <class C> INLINE void add_blocks(const backward_problem &p, struct key_tile t, uint32_t place)
{
    memory<C> &shm = shared<C>();
    uint32_t n = 0, before = t.first_key / C::BC;
    for (int head = t.head * p.group; head < (t.head + 1) * p.group; head++)
        for (int row = (p.blocks - 1) * ROWS; row >= t.first_row; row -= ROWS, n++) {
            if (n % 2 != place)
                continue;
            int64_t block = (int64_t)head * p.blocks + row / ROWS;
            wait_for_count(p.added + block, before);
            fence_async_global();
            wait_full(shm.sums, n);
            if (before == 0)
                bulk_store(p.sums + block * (ROWS * C::DIM), shared_address(shm.dq[place]), sizeof shm.dq[0]);
            else
                bulk_add(p.sums + block * (ROWS * C::DIM), shared_address(shm.dq[place]), sizeof shm.dq[0]);
            tma_store_wait_read<0>();
            release(shm.sums, n);
            tma_store_wait<0>();
            count_around(p.added + block, UINT_MAX);
        }
}

template <class C> INLINE void produce(const backward_problem &p)
{
    fewer_registers<C::PRODUCER_REGISTERS>();
    struct key_tile t = shared<C>().tile;
    if (threadIdx.x % 128 == 0)
        load_blocks<C>(p, t);
    else if (threadIdx.x % 128 == 32 || threadIdx.x % 128 == 64)
        add_blocks<C>(p, t, threadIdx.x % 128 / 64);
}

/* ---- consumers */

template <class C> struct keys {
    int warpgroup, key;                         /* the first of this thread's two keys, 8 apart */
    float dk[C::DIM / 2], dv[C::DIM / 2];       /* its share of 64 keys x DIM dims */
    float s[ROWS / 2], dp[ROWS / 2];            /* and of 64 keys x 64 queries */
    uint32_t weights[ROWS / 4], ds[ROWS / 4];   /* P and dS in 16 bits, as operands */
};

/* Whether this warpgroup computes dQ, or a part of it, in step n: that of block n - 1. */
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
    wait_full(shm.queries, n);
    forget(me.s);
    begin_square<C>(me.s, matrix<C>(shm.k[me.warpgroup], 0), matrix<C>(shm.q[n % C::STAGES], 0), false);
}

template <class C> INLINE void begin_changes(keys<C> &me, uint32_t n)
{
    memory<C> &shm = shared<C>();
    wait_full(shm.changes, n);
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
    wait_full(shm.scores, n);
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

/*
 * dS^T of the n-th block to shared memory, for dQ. The same fence, which takes its time, does for what this warpgroup left there
 * in the step before: dQ of block n - 2.
 */
template <class C> INLINE void hand_over(keys<C> &me, uint32_t n)
{
    memory<C> &shm = shared<C>();
    uint32_t row = lane() % 16, box = shared_address(shm.ds[n % 2]) + (threadIdx.x / 32 * 16 + row) * 128;
    wait_empty(shm.scores, n);
#pragma unroll
    for (int i = 0; i < 8; i += 2)
        stmatrix(box + ((i + lane() / 16) ^ row % 8) * 16, me.ds + 2 * i);
    fence_async_shared();
    __syncwarp();
    if (lane() == 0) {
        announce(shm.scores, n);
        if (n > 1 && has_turn(me, n - 1))
            announce(shm.sums, n - 2);
    }
}

/* dQ^T of the n-th block, or this warpgroup's part, to shared memory: registers 0 to 3 of all threads, then 4 to 7, and so on. */
template <class C> INLINE void put_queries(const float (&dq)[ROWS / 2], const keys<C> &me, uint32_t n)
{
    memory<C> &shm = shared<C>();
    float *part = shm.dq[n % 2][C::TURNS ? 0 : me.warpgroup];
    release_together(shm.scores, n);
    wait_empty(shm.sums, n);
#pragma unroll
    for (int i = 0; i < ROWS / 2; i += 4)
        *(float4 *)&part[(i / 4 * 128 + threadIdx.x % 128) * 4] = make_float4(dq[i], dq[i + 1], dq[i + 2], dq[i + 3]);
}

/* dQ of the n-th block at one go: nothing else is to be done meanwhile. */
template <class C> INLINE void queries(const keys<C> &me, uint32_t n)
{
    float dq[ROWS / 2];
    begin_queries(dq, me, n);
    wgmma_wait<0>();
    arrived(dq);
    put_queries(dq, me, n);
}

/* The products with P and dS of the n-th block, and dQ of the block before. */
template <class C> INLINE void multiply(keys<C> &me, uint32_t n)
{
    memory<C> &shm = shared<C>();
    if constexpr (C::TURNS) {
        add_product<C>(me.dv, me.weights, shm.o[n % C::STAGES]);
        hand_over(me, n);
        add_product<C>(me.dk, me.ds, shm.q[n % C::STAGES]);
        wgmma_commit();
        if (n > 0 && has_turn(me, n))
            queries(me, n - 1);
    } else {
        float dq[ROWS / 2];
        begin_queries(dq, me, n - 1); /* in step 0 of nothing, which is there at once, and dropped: no product in a branch */
        add_product<C>(me.dv, me.weights, shm.o[n % C::STAGES]);
        hand_over(me, n);
        add_product<C>(me.dk, me.ds, shm.q[n % C::STAGES]);
        wgmma_commit();
        wgmma_wait<1>(); /* for dQ, which leaves while dV and dK are multiplied */
        arrived(dq);
        if (n > 0)
            put_queries(dq, me, n - 1);
    }
}

/* dV and dK are complete up to the n-th block: its places are free. */
template <class C> INLINE void end_block(keys<C> &me, uint32_t n)
{
    arrived(me.dv);
    arrived(me.dk);
    arrived(me.weights);
    arrived(me.ds);
    release_together(shared<C>().queries, n);
    release_together(shared<C>().changes, n);
}

/* From the n-th block to the next. Heads of 64 have no registers for S beside operands of products that still run. */
template <class C> INLINE void next_block(keys<C> &me, uint32_t n)
{
    if constexpr (C::TURNS) {
        wgmma_wait<0>();
        end_block(me, n);
        begin_scores(me, n + 1);
    } else {
        begin_scores(me, n + 1);
        wgmma_wait<1>();
        end_block(me, n);
    }
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

/* After the last of n blocks: dQ of that one, all dQ announced, and dV and dK out. */
template <class C> INLINE void finish(keys<C> &me, const backward_problem &p, uint32_t n, struct key_tile t)
{
    memory<C> &shm = shared<C>();
    int first_key = t.first_key + me.warpgroup * ROWS;
    wgmma_wait<0>();
    end_block(me, n - 1);
    if (has_turn(me, n))
        queries(me, n - 1);
    fence_async_shared();
    __syncwarp();
    if (lane() == 0 && n > 1 && has_turn(me, n - 1))
        announce(shm.sums, n - 2);
    if (lane() == 0 && has_turn(me, n))
        announce(shm.sums, n - 1);
    wait_full(shm.scores, n - 1);  /* everybody is through with V */
    store_keys<C>(me.dv, &p.dv, shm.v[me.warpgroup], first_key, t.head);
    wait_empty(shm.scores, n);     /* and with K: dQ of the last two blocks is there */
    wait_empty(shm.scores, n + 1);
    rescale(me.dk, make_float2(p.scale, p.scale));
    store_keys<C>(me.dk, &p.dk, shm.k[me.warpgroup], first_key, t.head);
    if (lane() == 0)
        tma_store_wait_read<0>(); /* shared memory must last until the boxes have been read */
}

template <class C> INLINE void consume(const backward_problem &p, int warpgroup)
{
    memory<C> &shm = shared<C>();
    struct key_tile t = shm.tile;
    keys<C> me = { warpgroup, t.first_key + warpgroup * ROWS + row_of_thread() }; /* and zeros */
    int unmasked = first_to_see<C>(p, t.first_key + warpgroup * ROWS + ROWS - 1); /* from this query on all see all keys */
    uint32_t blocks = uniform(t.blocks), n = 0;
    mbarrier_wait(shared_address(&shm.keys), 0);
    begin_scores(me, 0);
    mbarrier_wait(shared_address(&shm.values), 0);
    wgmma_wait<0>(); /* once; the compiler would wait by itself */
    begin_changes(me, 0);
    int last = (p.blocks - 1) * ROWS, row = last;
#pragma unroll 1
    for (;;) {
        differentiate(me, p, n, row, row < unmasked);
        multiply(me, n);
        row = row > t.first_row ? row - ROWS : last;
        if (++n == blocks)
            break;
        next_block(me, n - 1);
    }
    finish(me, p, n, t);
}

template <class C> static __global__ void __launch_bounds__(128 * (C::WARPGROUPS + 1), 1)
    ordered_backward_kernel(const __grid_constant__ struct backward_problem p)
{
    needs_hopper();
    if constexpr (HOPPER) {
        begin_memory<C>(p);
        int warpgroup = uniform(threadIdx.x / 128);
        if (warpgroup == C::WARPGROUPS) {
            produce<C>(p);
        } else {
            more_registers<C::REGISTERS>();
            consume<C>(p, warpgroup);
        }
    }
}

/* ---- behind: dQ from its sums */

/*
 * A block of queries to a block of threads. The sums lie as registers of a 64 x 64 product do: wgmma.cuh says which is which. The
 * first blocks of a head see no keys, if there are `blind` ones: they have no sums, and dQ is 0.
 */
template <int DIM, class T> static __global__ void __launch_bounds__(THREADS)
    convert_kernel(T *dQ, const float *sums, float scale, int seq_q, int blocks, int blind)
{
    __shared__ float tile[ROWS][DIM + 4];
    int64_t head = blockIdx.x / blocks;
    int first = blockIdx.x % blocks * ROWS;
    const float4 *from = (const float4 *)(sums + (int64_t)blockIdx.x * ROWS * DIM);
    for (int i = threadIdx.x; i < ROWS * DIM / 4; i += THREADS) {
        float4 v = first >= blind * ROWS ? __ldcs(from + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        int thread = i % 128, query = i / 128 % 8 * 8 + thread % 4 * 2;
        int dim = i / 1024 * 64 + thread / 32 * 16 + thread % 32 / 4;
        tile[query][dim] = v.x, tile[query + 1][dim] = v.y;
        tile[query][dim + 8] = v.z, tile[query + 1][dim + 8] = v.w;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * DIM / PER<T>; i += THREADS) {
        int query = i / (DIM / PER<T>), dim = i % (DIM / PER<T>) * PER<T>;
        float v[PER<T>];
        for (int j = 0; j < PER<T>; j++)
            v[j] = scale * tile[query][dim + j];
        if (first + query < seq_q)
            stream_pack(dQ + (head * seq_q + first + query) * DIM + dim, make_pack<T>(v));
    }
}

/* ---- launchers */

template <class C, class T>
static void launch_for(T *dQ, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *O, const float *lse, const T *dO,
                       const float *dlse, struct attention a, void *workspace, cudaStream_t stream)
{
    static_assert(sizeof(memory<C>) <= SHARED_BYTES, "more than a block's shared memory");
    static_assert(C::PRODUCER_REGISTERS >= 24, "too few registers are left to a producer");
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
    p.added = (unsigned *)(of_rows + 2 * rows), p.begun = p.added + rows / ROWS;
    p.seq_q = (int)a.seq_q, p.seq_k = (int)a.seq_k;
    p.heads = (int)kv_heads, p.group = (int)attention_group(a);
    p.section = (int)max(min(SECTION / (attention_group(a) * a.seq_q), kv_heads), INT64_C(1));
    p.blocks = (int)ceil_div(a.seq_q, ROWS), p.key_blocks = (p.seq_k + C::BC - 1) / C::BC;
    p.more = a.causal ? p.seq_k - p.seq_q + 1 : p.seq_k;
    p.c = exponent_scale(a.scale) * scale_sign(a.scale), p.scale = a.scale;

    cudaFuncSetAttribute(ordered_backward_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<C>));
    unsigned small = (unsigned)(rows * (C::DIM / PER<T>) / THREADS);
    prepare_kernel<C::DIM><<<small, THREADS, 0, stream>>>(of_rows, p.added, p.begun, O, lse, dO, dlse, p.seq_q);
    ordered_backward_kernel<C><<<(unsigned)(p.heads * p.key_blocks), 128 * (C::WARPGROUPS + 1), sizeof(memory<C>), stream>>>(p);
    convert_kernel<C::DIM><<<(unsigned)(heads * p.blocks), THREADS, 0, stream>>>(dQ, sums, p.scale, p.seq_q, p.blocks,
                                                                                 max(0, 1 - p.more) / ROWS);
}

/* dQ's sums, two floats a query, a count for each block of queries, and one. */
size_t ordered_backward_workspace(struct attention p, enum dtype)
{
    return (size_t)(p.batch * p.heads * ceil_div(p.seq_q, ROWS) * (ROWS * (p.dim + 2) + 1) + 1) * sizeof(float);
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

void ordered_backward_fp16_gpu(fp16 *dQ, fp16 *dK, fp16 *dV, const fp16 *Q, const fp16 *K, const fp16 *V, const fp16 *O,
                              const float *lse, const fp16 *dO, const float *dlse, struct attention p, void *workspace,
                              cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

void ordered_backward_bf16_gpu(bf16 *dQ, bf16 *dK, bf16 *dV, const bf16 *Q, const bf16 *K, const bf16 *V, const bf16 *O,
                              const float *lse, const bf16 *dO, const float *dlse, struct attention p, void *workspace,
                              cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

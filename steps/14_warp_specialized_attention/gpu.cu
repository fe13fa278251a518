/*
 * Step 14, warp-specialized attention: some warps copy, others compute, and softmax runs beside products. Needs sm_90a.
 *
 *     producers    two threads of a warpgroup of their own: one loads Q and K, one loads V, as far ahead as there are places.
 *                  They hand their registers to the consumers
 *     consumers    2 to 4 warpgroups, of 64 queries each. While a warpgroup's softmax works on block j, the tensor cores work on
 *                  its P V of block j + 1, which it has begun before, and on the products of the other warpgroups
 *
 *     products     S3   S2 PV3   S1 PV2   S0 PV1   PV0           of one warpgroup: keys from the right to the left, so that
 *     softmax         3      2        1        0                 the blocks that need a mask come first
 *
 * Changed since step 13: two kinds of warps; K and V arrive, and are let go, separately; first_block(), next_block().
 */
#include "hopper.cuh"
#include "steps.h"
#include "timeline.cuh"

#define LAG 8.0f           /* log2 of how far exp(scores) may exceed exp(m), as in step 12 */

/* What a block is made of. A tile is WGS times ROWS queries; its keys come in blocks of BC. */
template <class ELEMENT, int HEAD_DIM, int WARPGROUPS, int KEYS, int PLACES, int KEEP, int FIRST> struct shape {
    typedef ELEMENT T;
    static constexpr int DIM = HEAD_DIM, WGS = WARPGROUPS, BR = ROWS * WGS, BC = KEYS;
    static constexpr int STAGES = PLACES;          /* places for blocks of K, and as many for blocks of V */
    static constexpr int REGISTERS = KEEP;         /* of a consumer; a producer has what is left, and needs few */
    static constexpr int PRODUCER = registers_left(WGS, KEEP);
    static constexpr int BYTES = BC * DIM * 2;     /* of a block of keys */
    static constexpr int EARLY = FIRST;            /* eights of a block's keys that are exponentiated before the wait for P V */
};

/* A tile of one head: queries from first_row on, and blocks - 1, ..., 0 of keys. */
struct tile {
    int head, kv_head, first_row, blocks;
};

struct problem {
    CUtensorMap q, k, v, o;
    float *lse;
    int seq_q, seq_k, heads, kv_heads;
    int row_tiles;          /* of a head */
    int more;               /* query i sees the keys below i + more, and below seq_k */
    float c, sign;          /* |scale| log2(e), and what the queries are to be multiplied by: -1, 0 or 1 */
};

template <class S> struct __align__(1024) memory {
    typename S::T q[S::WGS][ROWS * S::DIM];         /* a warpgroup's queries; at the end its results on their way out */
    typename S::T k[S::STAGES][S::BC * S::DIM], v[S::STAGES][S::BC * S::DIM];
    float2 m[S::WGS * 128], r[S::WGS * 32];         /* what rows refer to, times c and as it is: registers are too scarce */
    ring<1> queries[S::WGS];
    ring<S::STAGES> keys, values;
};

template <class S> INLINE memory<S> &shared(void)
{
    extern __shared__ __align__(1024) unsigned char bytes[];
    return *(memory<S> *)bytes;
}

/* What a consumer thread has in registers. */
template <class S> struct consumer {
    int warpgroup;
    struct tile tile;
    uint32_t keys, values;          /* blocks of K, and blocks of V, that are behind it */
    int block, masked_from;         /* the block it is at; blocks from masked_from on need a mask */
    bool add;                       /* whether the next P V adds to O: not the first */
    float o[S::DIM / 2], l[2];
    uint32_t p[S::BC / 4];          /* the weights of the block before: the next product's operand */
};

/* A block's tile: of a head after the other; of each the last rows first, which see the most keys. */
template <class S> INLINE struct tile tile_at(const problem &p, int i)
{
    struct tile t;
    t.head = i / p.row_tiles;
    t.kv_head = t.head / p.heads * p.kv_heads + t.head % p.heads / (p.heads / p.kv_heads);
    t.first_row = (p.row_tiles - 1 - i % p.row_tiles) * S::BR;
    t.blocks = max(1, (min(p.seq_k, t.first_row + S::BR - 1 + p.more) + S::BC - 1) / S::BC);
    return t;
}

/* ---- producers */

template <class S> INLINE void produce_keys(const problem &p)
{
    memory<S> &m = shared<S>();
    struct tile t = tile_at<S>(p, blockIdx.x);
    for (int i = 0; i < S::WGS; i++)
        load(m.queries[i], 0, m.q[i], ROWS * S::DIM * 2, &p.q, t.first_row + ROWS * i, t.head, READ_ONCE);
    uint32_t keys = 0;
#pragma unroll 1
    for (int block = t.blocks - 1; block >= 0; block--) {
        load(m.keys, keys++, m.k, S::BYTES, &p.k, block * S::BC, t.kv_head, KEEP_IN_L2);
        mark(BEGAN_K, keys - 1);
    }
}

template <class S> INLINE void produce_values(const problem &p)
{
    memory<S> &m = shared<S>();
    struct tile t = tile_at<S>(p, blockIdx.x);
    uint32_t values = 0;
#pragma unroll 1
    for (int block = t.blocks - 1; block >= 0; block--) {
        load(m.values, values++, m.v, S::BYTES, &p.v, block * S::BC, t.kv_head, KEEP_IN_L2);
        mark(BEGAN_V, values - 1);
    }
}

/* ---- consumers: products, which run by themselves until they are waited for */

template <class S> INLINE void begin_scores(float (&s)[S::BC / 2], const consumer<S> &me)
{
    memory<S> &m = shared<S>();
    uint64_t q = wgmma_descriptor(shared_address(m.q[me.warpgroup]), 0);
    uint64_t k = wgmma_descriptor(shared_address(m.k), 0) + me.keys % S::STAGES * (S::BYTES / 16);
    begin_scores<S::DIM>(s, q, k, typename S::T());
}

template <class S> INLINE void begin_values(consumer<S> &me, bool add)
{
    uint64_t v = wgmma_descriptor(shared_address(shared<S>().v), S::BC * 128) + me.values % S::STAGES * (S::BYTES / 16);
    begin_values(me.o, me.p, v, add, typename S::T());
}

template <class S> INLINE void mask_block(float (&s)[S::BC / 2], const consumer<S> &me, const problem &p)
{
    int row = me.tile.first_row + ROWS * me.warpgroup + row_of_thread(), first = me.block * S::BC;
    mask(s, min(p.seq_k, row + p.more) - first, min(p.seq_k, row + 8 + p.more) - first);
}

template <class S> INLINE uint32_t m_of_thread(void)
{
    return shared_address(&shared<S>().m[threadIdx.x]);
}

template <class S> INLINE uint32_t r_of_row(void)
{
    return shared_address(&shared<S>().r[threadIdx.x / 4]);
}

/* ---- consumers: a tile */

/* The first block, whose softmax has no product to run beside. */
template <class S> INLINE void first_block(consumer<S> &me, const problem &p)
{
    memory<S> &shm = shared<S>();
    float s[S::BC / 2];
    wait_full(shm.queries[me.warpgroup], 0);
    if (p.sign != 1.0f)
        multiply_queries(shm.q[me.warpgroup], p.sign, me.warpgroup);
    wait_full(shm.keys, me.keys);
    mark(WAITED_FOR_K, me.keys);
    begin_scores(s, me);
    mark(BEGAN_PRODUCTS, me.keys);
    wgmma_wait<0>();
    arrived(s);
    mark(GOT_SCORES, me.keys);
    release_together(shm.keys, me.keys++);
    if (me.block >= me.masked_from)
        mask_block(s, me, p);
    float2 r = make_float2(row_maximum(s, 0), row_maximum(s, 1));
    exponentials<0, S::BC / 8>(s, keep_reference(s, r, p.c, m_of_thread<S>(), r_of_row<S>()), p.c, me.l);
    pack_weights(me.p, s, typename S::T());
    mark(DID_SOFTMAX, me.keys - 1);
}

/* What the rows refer to: m, and where their maximum is too far above that, or m is NaN, their maximum. */
template <int N> INLINE float2 follow(const float (&s)[N], float2 m, float c)
{
    float2 above = make_float2(row_maximum(s, 0) * c, row_maximum(s, 1) * c);
    return make_float2(above.x <= m.x + LAG ? m.x : above.x, above.y <= m.y + LAG ? m.y : above.y);
}

/* What follow() says, done: l and O are to be multiplied by `factor`. A row that is not near, whose old m is NaN, is looked at here. */
template <class S> INLINE float2 raise(float2 &factor, float (&s)[S::BC / 2], float2 old, float2 m, float c)
{
    float2 before = load_pair(r_of_row<S>()), above = make_float2(row_maximum(s, 0), row_maximum(s, 1)), r = before;
    if (isnan(old.x) ? (above.x - r.x) * c > LAG : m.x > old.x)
        r.x = above.x;
    if (isnan(old.y) ? (above.y - r.y) * c > LAG : m.y > old.y)
        r.y = above.y;
    factor = factors(before, r, c);
    return keep_reference(s, r, c, m_of_thread<S>(), r_of_row<S>());
}

/* Any other block: its scores, and then its softmax, are computed beside P V of the block before. */
template <class S, bool MASKED> INLINE void next_block(consumer<S> &me, const problem &p)
{
    memory<S> &shm = shared<S>();
    float s[S::BC / 2], sum[2] = { 0.0f, 0.0f };
    wait_full(shm.keys, me.keys);
    mark(WAITED_FOR_K, me.keys);
    float2 old = load_pair(m_of_thread<S>()), factor; /* early: it is here when the scores are */
    begin_scores(s, me);
    wait_full(shm.values, me.values);
    begin_values(me, me.add);
    me.add = true;
    mark(BEGAN_PRODUCTS, me.keys);
    wgmma_wait<1>(); /* for the scores; P V may still run */
    arrived(s);
    mark(GOT_SCORES, me.keys);
    release_together(shm.keys, me.keys++);
    if (MASKED)
        mask_block(s, me, p);
    float2 m = follow(s, old, p.c);
    bool rare = __any_sync(ALL_LANES, m.x != old.x || m.y != old.y); /* what is NaN is unlike itself */
    if (rare)
        m = raise<S>(factor, s, old, m, p.c);
    exponentials<0, S::EARLY>(s, m, p.c, sum);
    if (__any_sync(ALL_LANES, me.l[0] + sum[0] + sum[1] < 0.0f)) { /* never: see the lesson on what the branch is for */
        end_values(me.o, me.p);
        rescale(me.o, make_float2(0.0f, 0.0f));
    } else {
        end_values(me.o, me.p);
    }
    if (rare) {
        me.l[0] *= factor.x, me.l[1] *= factor.y;
        rescale(me.o, factor);
    }
    mark(GOT_VALUES, me.keys - 1);
    release_together(shm.values, me.values++);
    exponentials<S::EARLY, S::BC / 8>(s, m, p.c, sum);
    me.l[0] += sum[0], me.l[1] += sum[1];
    pack_weights(me.p, s, typename S::T());
    mark(DID_SOFTMAX, me.keys - 1);
}

/* O leaves through the place of the warp's queries, 16 rows of each panel, which nobody needs any more. */
template <class S> INLINE void end_tile(consumer<S> &me, const problem &p)
{
    int row = me.tile.first_row + ROWS * me.warpgroup + row_of_thread();
    float *lse = p.lse ? p.lse + (int64_t)me.tile.head * p.seq_q + row : NULL;
    rescale(me.o, finish_rows(lse, p.seq_q - row, make_float2(me.l[0], me.l[1]), scaled(load_pair(r_of_row<S>()), p.c)));
    named_barrier(1 + me.warpgroup, 128); /* of the warpgroup: all its products with Q are done */
    uint32_t box = shared_address(shared<S>().q[me.warpgroup]) + threadIdx.x % 128 / 32 * 16 * 128;
#pragma unroll
    for (int panel = 0; panel < S::DIM / PANEL; panel++, box += ROWS * 128) {
        fill_box(box, me.o, panel, typename S::T());
        if (lane() == 0)
            tma_store(&p.o, box, row, panel, me.tile.head);
    }
    if (lane() == 0)
        tma_store_wait_read<0>(); /* shared memory must last until the boxes have been read */
}

template <class S> INLINE void consume(const problem &p, int warpgroup)
{
    consumer<S> me = { warpgroup, tile_at<S>(p, blockIdx.x) };
    me.masked_from = max(0, min(p.seq_k, me.tile.first_row + ROWS * warpgroup + p.more)) / S::BC;
    me.block = me.tile.blocks - 1;
    first_block(me, p);
    me.block--;
#pragma unroll 1
    for (; me.block >= me.masked_from && me.block >= 0; me.block--)
        next_block<S, true>(me, p);
#pragma unroll 1
    for (; me.block >= 0; me.block--)
        next_block<S, false>(me, p);
    wait_full(shared<S>().values, me.values);
    begin_values(me, me.add);
    end_values(me.o, me.p);
    end_tile(me, p);
}

template <class S> static __global__ void __launch_bounds__(128 * (S::WGS + 1), 1)
    warp_specialized_attention_kernel(const __grid_constant__ struct problem p)
{
    needs_hopper();
    if constexpr (HOPPER) {
        memory<S> &m = shared<S>();
        if (threadIdx.x == 0) {
            for (int i = 0; i < S::WGS; i++)
                ring_init(m.queries[i], 1);
            ring_init(m.keys, S::WGS);
            ring_init(m.values, S::WGS);
            mbarrier_init_fence();
        }
        __syncthreads();
        int warpgroup = uniform(threadIdx.x / 128);
        if (warpgroup == S::WGS) {
            fewer_registers<S::PRODUCER>();
            if (threadIdx.x % 128 == 0)
                produce_keys<S>(p);
            if (threadIdx.x % 128 == 32)
                produce_values<S>(p);
        } else {
            more_registers<S::REGISTERS>();
            consume<S>(p, warpgroup);
        }
    }
}

/* ---- launching */

template <class S, class T> static void launch_as(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention a,
                                                  cudaStream_t stream)
{
    int64_t heads = a.batch * a.heads, kv_heads = a.batch * a.kv_heads;
    struct problem p = {};
    static_assert(sizeof(memory<S>) <= SHARED_BYTES, "more than a block's shared memory");
    if (!attention_map(&p.q, Q, heads, a.seq_q, S::DIM, ROWS, S::DIM / PANEL) ||
        !attention_map(&p.k, K, kv_heads, a.seq_k, S::DIM, S::BC, S::DIM / PANEL) ||
        !attention_map(&p.v, V, kv_heads, a.seq_k, S::DIM, S::BC, S::DIM / PANEL) ||
        !attention_map(&p.o, O, heads, a.seq_q, S::DIM, 16, 1))
        return;
    p.lse = lse;
    p.seq_q = (int)a.seq_q, p.seq_k = (int)a.seq_k;
    p.heads = (int)a.heads, p.kv_heads = (int)a.kv_heads;
    p.row_tiles = (p.seq_q + S::BR - 1) / S::BR;
    p.more = a.causal ? p.seq_k - p.seq_q + 1 : p.seq_k;
    p.c = exponent_scale(a.scale), p.sign = scale_sign(a.scale);
    cudaFuncSetAttribute(warp_specialized_attention_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<S>));
    timeline_at_exit();
    warp_specialized_attention_kernel<S><<<(unsigned)(p.row_tiles * heads), 128 * (S::WGS + 1), sizeof(memory<S>), stream>>>(p);
}

/* Which shape for which problem: the lesson has the measurements behind it. */
template <class T> static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention a, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, a))
        return;
    if (a.dim == 128)
        launch_as<shape<T, 128, 2, 128, 2, 240, 6>>(O, lse, Q, K, V, a, stream);
    else if (a.seq_k <= (a.causal ? 4096 : 1024))
        launch_as<shape<T, 64, 4, 64, 4, 112, 4>>(O, lse, Q, K, V, a, stream);
    else
        launch_as<shape<T, 64, 3, 128, 4, 160, 4>>(O, lse, Q, K, V, a, stream);
}

void warp_specialized_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention a,
                                         void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, a, stream);
}

void warp_specialized_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention a,
                                         void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, a, stream);
}

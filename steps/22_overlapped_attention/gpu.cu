/*
 * Step 22, warp-specialized attention: some warps copy, others compute, and softmax runs beside products. Needs sm_90a.
 *
 *     producers    two threads of a warpgroup of their own: one loads Q and K, one loads V, as far ahead as there are places.
 *                  They hand their registers to the consumers
 *     consumers    2 to 4 warpgroups, of 64 queries each. While a warpgroup's softmax works on block j, the tensor cores work on
 *                  its P V of block j + 1, which it has begun before, and on the products of the other warpgroups
 *
 *     products     S3   S2 PV3   S1 PV2   S0 PV1   PV0           of one warpgroup: keys from the right to the left, so that
 *     softmax         3      2        1        0                 the blocks that need a mask come first
 *
 * Changed since step 20: two kinds of warps; K and V arrive, and are let go, separately; first_block(), next_block().
 */
#include "hopper.cuh"
#include "steps.h"
#include "timeline.cuh"

#define LAG 8.0f           /* log2 of how far exp(scores) may exceed exp(m), as in step 18 */

/* What a block is made of, by head dimension and number of keys: config in hopper.cuh says what is what. */
struct dim_64_short { static constexpr int DIM = 64,  WARPGROUPS = 4, BC = 64,  STAGES = 4, REGISTERS = 112, EARLY = 4; };
struct dim_64_long  { static constexpr int DIM = 64,  WARPGROUPS = 3, BC = 128, STAGES = 4, REGISTERS = 160, EARLY = 4; };
struct dim_128      { static constexpr int DIM = 128, WARPGROUPS = 2, BC = 128, STAGES = 2, REGISTERS = 240, EARLY = 6; };

/* A tile of one head: queries from first_row on, and blocks - 1, ..., 0 of keys. */
struct tile {
    int head, kv_head, first_row, blocks;
};

struct problem {
    struct tensor_maps map;
    float *lse;
    int seq_q, seq_k;
    int group;              /* heads of Q that share one of K and V */
    int row_tiles;          /* of a head */
    int more;               /* query i sees the keys below i + more, and below seq_k */
    float c, sign;          /* |scale| log2(e), and what the queries are to be multiplied by: -1, 0 or 1 */
};

template <class C> struct __align__(1024) memory {
    typename C::T q[C::WARPGROUPS][WARPGROUP_ROWS * C::DIM]; /* a warpgroup's queries; at the end its results on their way out */
    typename C::T k[C::STAGES][C::BC * C::DIM], v[C::STAGES][C::BC * C::DIM];
    float2 m[C::WARPGROUPS * 128], r[C::WARPGROUPS * 32]; /* what rows refer to, times c and as it is: registers are scarce */
    ring<1> queries[C::WARPGROUPS];
    ring<C::STAGES> keys, values;
};

template <class C> INLINE memory<C> &shared(void)
{
    extern __shared__ __align__(1024) unsigned char bytes[];
    return *(memory<C> *)bytes;
}

/* What a consumer thread has in registers. */
template <class C> struct consumer {
    int warpgroup;
    struct tile tile;
    uint32_t keys, values;          /* blocks of K, and blocks of V, that are behind it */
    int block, masked_from;         /* the block it is at; blocks from masked_from on need a mask */
    bool add;                       /* whether the next P V adds to O: not the first */
    float o[C::DIM / 2], l[2];
    uint32_t weights[C::BC / 4];    /* of the block before: the next product's operand */
};

/* A block's tile: of a head after the other; of each the last rows first, which see the most keys. */
template <class C> INLINE struct tile tile_at(const problem &p, int i)
{
    struct tile t;
    t.head = i / p.row_tiles;
    t.kv_head = t.head / p.group;
    t.first_row = (p.row_tiles - 1 - i % p.row_tiles) * C::BR;
    t.blocks = max(1, (min(p.seq_k, t.first_row + C::BR - 1 + p.more) + C::BC - 1) / C::BC);
    return t;
}

/* ---- producers */

template <class C> INLINE void produce_keys(const problem &p)
{
    memory<C> &shm = shared<C>();
    struct tile t = tile_at<C>(p, blockIdx.x);
    for (int i = 0; i < C::WARPGROUPS; i++)
        load(shm.queries[i], 0, shm.q[i], sizeof shm.q[i], &p.map.q, t.first_row + WARPGROUP_ROWS * i, t.head, READ_ONCE);
    uint32_t keys = 0;
#pragma unroll 1
    for (int block = t.blocks - 1; block >= 0; block--) {
        load(shm.keys, keys++, shm.k, C::BYTES, &p.map.k, block * C::BC, t.kv_head, KEEP_IN_L2);
        mark(BEGAN_K, keys - 1);
    }
}

template <class C> INLINE void produce_values(const problem &p)
{
    memory<C> &shm = shared<C>();
    struct tile t = tile_at<C>(p, blockIdx.x);
    uint32_t values = 0;
#pragma unroll 1
    for (int block = t.blocks - 1; block >= 0; block--) {
        load(shm.values, values++, shm.v, C::BYTES, &p.map.v, block * C::BC, t.kv_head, KEEP_IN_L2);
        mark(BEGAN_V, values - 1);
    }
}

/* ---- consumers: products, which run by themselves until they are waited for */

template <class C> INLINE void begin_scores(float (&s)[C::BC / 2], const consumer<C> &me)
{
    memory<C> &shm = shared<C>();
    uint64_t q = wgmma_descriptor(shared_address(shm.q[me.warpgroup]), 0);
    uint64_t k = wgmma_descriptor(shared_address(shm.k), 0) + me.keys % C::STAGES * (C::BYTES / 16);
    begin_scores<C::DIM>(s, q, k, typename C::T());
}

template <class C> INLINE void begin_values(consumer<C> &me, bool add)
{
    uint64_t v = wgmma_descriptor(shared_address(shared<C>().v), C::BC * 128) + me.values % C::STAGES * (C::BYTES / 16);
    begin_values(me.o, me.weights, v, add, typename C::T());
}

template <class C> INLINE void mask_block(float (&s)[C::BC / 2], const consumer<C> &me, const problem &p)
{
    int row = me.tile.first_row + WARPGROUP_ROWS * me.warpgroup + row_of_thread(), first = me.block * C::BC;
    mask(s, min(p.seq_k, row + p.more) - first, min(p.seq_k, row + 8 + p.more) - first);
}

template <class C> INLINE uint32_t m_of_thread(void)
{
    return shared_address(&shared<C>().m[threadIdx.x]);
}

template <class C> INLINE uint32_t r_of_row(void)
{
    return shared_address(&shared<C>().r[threadIdx.x / 4]);
}

/* ---- consumers: a tile */

/* The first block, whose softmax has no product to run beside. */
template <class C> INLINE void first_block(consumer<C> &me, const problem &p)
{
    memory<C> &shm = shared<C>();
    float s[C::BC / 2];
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
    exponentials<0, C::BC / 8>(s, keep_reference(s, r, p.c, m_of_thread<C>(), r_of_row<C>()), p.c, me.l);
    pack_weights(me.weights, s, typename C::T());
    mark(DID_SOFTMAX, me.keys - 1);
}

/* What the rows refer to: m, and where their maximum is too far above that, or m is NaN, their maximum. */
template <int N> INLINE float2 follow(const float (&s)[N], float2 m, float c)
{
    float2 above = make_float2(row_maximum(s, 0) * c, row_maximum(s, 1) * c);
    return make_float2(above.x <= m.x + LAG ? m.x : above.x, above.y <= m.y + LAG ? m.y : above.y);
}

/* What follow() says, done: l and O are to be multiplied by `factor`.
   A row that is not near, whose old m is NaN, is looked at here. */
template <class C> INLINE float2 raise(float2 &factor, float (&s)[C::BC / 2], float2 old, float2 m, float c)
{
    float2 before = load_pair(r_of_row<C>()), above = make_float2(row_maximum(s, 0), row_maximum(s, 1)), r = before;
    if (isnan(old.x) ? (above.x - r.x) * c > LAG : m.x > old.x)
        r.x = above.x;
    if (isnan(old.y) ? (above.y - r.y) * c > LAG : m.y > old.y)
        r.y = above.y;
    factor = factors(before, r, c);
    return keep_reference(s, r, c, m_of_thread<C>(), r_of_row<C>());
}

/* Any other block: its scores, and then its softmax, are computed beside P V of the block before. */
template <class C, bool MASKED> INLINE void next_block(consumer<C> &me, const problem &p)
{
    memory<C> &shm = shared<C>();
    float s[C::BC / 2], sum[2] = { 0.0f, 0.0f };
    wait_full(shm.keys, me.keys);
    mark(WAITED_FOR_K, me.keys);
    float2 old = load_pair(m_of_thread<C>()), factor; /* early: it is here when the scores are */
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
        m = raise<C>(factor, s, old, m, p.c);
    exponentials<0, C::EARLY>(s, m, p.c, sum);
    end_values_below(me.l[0] + sum[0] + sum[1], me.o, me.weights); /* never before these exponentials */
    if (rare) {
        me.l[0] *= factor.x, me.l[1] *= factor.y;
        rescale(me.o, factor);
    }
    mark(GOT_VALUES, me.keys - 1);
    release_together(shm.values, me.values++);
    exponentials<C::EARLY, C::BC / 8>(s, m, p.c, sum);
    me.l[0] += sum[0], me.l[1] += sum[1];
    pack_weights(me.weights, s, typename C::T());
    mark(DID_SOFTMAX, me.keys - 1);
}

/* O leaves through the place of the warp's queries, 16 rows of each panel, which nobody needs any more. */
template <class C> INLINE void end_tile(consumer<C> &me, const problem &p)
{
    int row = me.tile.first_row + WARPGROUP_ROWS * me.warpgroup + row_of_thread();
    float *lse = p.lse ? p.lse + (int64_t)me.tile.head * p.seq_q + row : NULL;
    rescale(me.o, finish_rows(lse, p.seq_q - row, make_float2(me.l[0], me.l[1]), scaled(load_pair(r_of_row<C>()), p.c)));
    named_barrier(1 + me.warpgroup, 128); /* of the warpgroup: all its products with Q are done */
    uint32_t box = shared_address(shared<C>().q[me.warpgroup]) + threadIdx.x % 128 / 32 * 16 * 128;
#pragma unroll
    for (int panel = 0; panel < C::DIM / PANEL; panel++, box += WARPGROUP_ROWS * 128) {
        fill_box(box, me.o, panel, typename C::T());
        if (lane() == 0)
            tma_store(&p.map.o, box, row, panel, me.tile.head);
    }
    if (lane() == 0)
        tma_store_wait_read<0>(); /* shared memory must last until the boxes have been read */
}

template <class C> INLINE void consume(const problem &p, int warpgroup)
{
    consumer<C> me = { warpgroup, tile_at<C>(p, blockIdx.x) };
    me.masked_from = max(0, min(p.seq_k, me.tile.first_row + WARPGROUP_ROWS * warpgroup + p.more)) / C::BC;
    me.block = me.tile.blocks - 1;
    first_block(me, p);
    me.block--;
#pragma unroll 1
    for (; me.block >= me.masked_from && me.block >= 0; me.block--)
        next_block<C, true>(me, p);
#pragma unroll 1
    for (; me.block >= 0; me.block--)
        next_block<C, false>(me, p);
    wait_full(shared<C>().values, me.values);
    begin_values(me, me.add);
    end_values(me.o, me.weights);
    end_tile(me, p);
}

template <class C> static __global__ void __launch_bounds__(128 * (C::WARPGROUPS + 1), 1)
    overlapped_attention_kernel(const __grid_constant__ struct problem p)
{
    needs_hopper();
    if constexpr (HOPPER) {
        memory<C> &shm = shared<C>();
        if (threadIdx.x == 0) {
            for (int i = 0; i < C::WARPGROUPS; i++)
                ring_init(shm.queries[i], 1);
            ring_init(shm.keys, C::WARPGROUPS);
            ring_init(shm.values, C::WARPGROUPS);
            mbarrier_init_fence();
        }
        __syncthreads();
        int warpgroup = uniform(threadIdx.x / 128);
        if (warpgroup == C::WARPGROUPS) {
            fewer_registers<C::PRODUCER_REGISTERS>();
            if (threadIdx.x % 128 == 0)
                produce_keys<C>(p);
            if (threadIdx.x % 128 == 32)
                produce_values<C>(p);
        } else {
            more_registers<C::REGISTERS>();
            consume<C>(p, warpgroup);
        }
    }
}

/* ---- launching */

template <class C, class T> static void launch_as(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention a,
                                                  cudaStream_t stream)
{
    struct problem p = {};
    static_assert(sizeof(memory<C>) <= SHARED_BYTES, "more than a block's shared memory");
    static_assert(C::FRAGMENTS + C::BC / 4 <= C::REGISTERS, "O, S and P are more than a consumer's registers");
    static_assert(C::PRODUCER_REGISTERS >= 24, "too few registers are left to a producer");
    if (!attention_maps<C>(&p.map, O, Q, K, V, a))
        return;
    p.lse = lse;
    p.seq_q = (int)a.seq_q, p.seq_k = (int)a.seq_k;
    p.group = (int)attention_group(a);
    p.row_tiles = (p.seq_q + C::BR - 1) / C::BR;
    p.more = a.causal ? p.seq_k - p.seq_q + 1 : p.seq_k;
    p.c = exponent_scale(a.scale), p.sign = scale_sign(a.scale);
    cudaFuncSetAttribute(overlapped_attention_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<C>));
    timeline_at_exit();
    unsigned tiles = (unsigned)(p.row_tiles * a.batch * a.heads);
    overlapped_attention_kernel<C><<<tiles, 128 * (C::WARPGROUPS + 1), sizeof(memory<C>), stream>>>(p);
}

/* Which sizes for which problem: the lesson has the measurements behind it. */
template <class T>
static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention a, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, a))
        return;
    if (a.dim == 128)
        launch_as<config<T, dim_128>>(O, lse, Q, K, V, a, stream);
    else if (a.seq_k <= (a.causal ? 4096 : 1024))
        launch_as<config<T, dim_64_short>>(O, lse, Q, K, V, a, stream);
    else
        launch_as<config<T, dim_64_long>>(O, lse, Q, K, V, a, stream);
}

void overlapped_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention a,
                                         void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, a, stream);
}

void overlapped_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention a,
                                         void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, a, stream);
}

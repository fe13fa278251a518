/*
 * Step 29, overlapped attention: the next scores are multiplied under this softmax. Needs a Hopper GPU.
 *
 *     products     S3   S2 PV3   S1 PV2   S0 PV1   PV0           of one warpgroup, keys from the right to the left
 *     softmax         3      2        1        0
 *
 * While a warpgroup's softmax works on block j, the tensor cores work on its P V of block j + 1, which it has begun together with
 * the scores of j, and on the products of the other warpgroups. A consumer keeps O, S, and P of the block before: registers are
 * scarce, so what its rows refer to lies in shared memory.
 *
 * Changed since step 28: consumers. The loop over blocks is first_block(), next_block() and end_tile(); softmax is in
 * parts, the first of which is held above the wait for P V. At heads of 64 short sequences get a block of other sizes.
 */
#include "hopper.cuh"
#include "steps.h"
#include "timeline.cuh"

/* What a block is made of, by head dimension and number of keys: config in hopper.cuh says what is what. */
struct dim_64_short { static constexpr int DIM = 64,  WARPGROUPS = 4, BC = 64,  STAGES = 4, REGISTERS = 112, EARLY = 4; };
struct dim_64_long  { static constexpr int DIM = 64,  WARPGROUPS = 3, BC = 128, STAGES = 4, REGISTERS = 160, EARLY = 4; };
struct dim_128      { static constexpr int DIM = 128, WARPGROUPS = 2, BC = 128, STAGES = 2, REGISTERS = 240, EARLY = 6; };

template <class C> struct __align__(1024) memory {
    typename C::T q[C::WARPGROUPS][WARPGROUP_ROWS * C::DIM]; /* 64 queries each; at the end their results on the way out */
    typename C::T k[C::STAGES][C::BC * C::DIM], v[C::STAGES][C::BC * C::DIM];
    float2 m[C::WARPGROUPS * 128], r[C::WARPGROUPS * 32]; /* what rows refer to, times c and as it is: registers are scarce */
    ring<1> queries[C::WARPGROUPS];
    ring<C::STAGES> keys, values;
};

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

/* ---- producers */

/* One thread: the tile's blocks of K, from the last to the first, each as soon as there is an empty place. mark() is for `make
   timeline`. */
template <class C> INLINE void produce_keys(const problem &p)
{
    memory<C> &shm = shared<C>();
    struct tile t = tile_of_block<C>(p);
    uint32_t keys = 0;
#pragma unroll 1
    for (int block = t.blocks - 1; block >= 0; block--) {
        load(shm.keys, keys++, shm.k, C::BYTES, &p.map.k, block * C::BC, t.kv_head, KEEP_IN_L2);
        mark(BEGAN_K, keys - 1);
    }
}

/* Another thread: its blocks of V. */
template <class C> INLINE void produce_values(const problem &p)
{
    memory<C> &shm = shared<C>();
    struct tile t = tile_of_block<C>(p);
    uint32_t values = 0;
#pragma unroll 1
    for (int block = t.blocks - 1; block >= 0; block--) {
        load(shm.values, values++, shm.v, C::BYTES, &p.map.v, block * C::BC, t.kv_head, KEEP_IN_L2);
        mark(BEGAN_V, values - 1);
    }
}

/* And another: its queries, once, for each warpgroup its own 64. */
template <class C> INLINE void produce_queries(const problem &p)
{
    memory<C> &shm = shared<C>();
    struct tile t = tile_of_block<C>(p);
    for (int i = 0; i < C::WARPGROUPS; i++)
        load(shm.queries[i], 0, shm.q[i], sizeof shm.q[i], &p.map.q, t.first_row + WARPGROUP_ROWS * i, t.head, READ_ONCE);
}

/* As a warpgroup, which hands over its registers: three of its threads, each in a warp of its own. */
template <class C> INLINE void produce(const problem &p)
{
    fewer_registers<C::PRODUCER_REGISTERS>();
    if (threadIdx.x % 128 == 0)
        produce_keys<C>(p);
    if (threadIdx.x % 128 == 32)
        produce_values<C>(p);
    if (threadIdx.x % 128 == 64)
        produce_queries<C>(p);
}

/* ---- consumers: softmax */

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
    return keep_reference<C>(s, r, c);
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
    begin_scores<C>(s, shm.q[me.warpgroup], me.keys);
    mark(BEGAN_PRODUCTS, me.keys);
    wgmma_wait<0>();
    arrived(s);
    mark(GOT_SCORES, me.keys);
    release_together(shm.keys, me.keys++);
    if (me.block >= me.masked_from)
        mask_block(s, p, me.tile.first_row, me.warpgroup, me.block * C::BC);
    float2 r = make_float2(row_maximum(s, 0), row_maximum(s, 1));
    exponentials<0, C::BC / 8>(s, keep_reference<C>(s, r, p.c), p.c, me.l);
    pack_weights(me.weights, s, typename C::T());
    mark(DID_SOFTMAX, me.keys - 1);
}

/*
 * Any other block: its scores, and then its softmax, are computed beside P V of the block before. At the end me.weights are this
 * block's, l has its sums, and what l and O refer to is at most LAG below its maxima; O lacks its P V. Its place of K, and the
 * block before's of V, have been let go.
 */
template <class C, bool MASKED> INLINE void next_block(consumer<C> &me, const problem &p)
{
    memory<C> &shm = shared<C>();
    float s[C::BC / 2], sum[2] = { 0.0f, 0.0f };
    wait_full(shm.keys, me.keys);
    mark(WAITED_FOR_K, me.keys);
    float2 old = load_pair(m_of_thread<C>()), factor; /* early: it is here when the scores are */
    begin_scores<C>(s, shm.q[me.warpgroup], me.keys);
    wait_full(shm.values, me.values);
    begin_values<C>(me.o, me.weights, me.values, me.add);
    me.add = true;
    mark(BEGAN_PRODUCTS, me.keys);
    wgmma_wait<1>(); /* for the scores; P V may still run */
    arrived(s);
    mark(GOT_SCORES, me.keys);
    release_together(shm.keys, me.keys++);
    if (MASKED)
        mask_block(s, p, me.tile.first_row, me.warpgroup, me.block * C::BC);
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

/* The last P V, which has no softmax to run beside; then O leaves through the place of the queries. */
template <class C> INLINE void end_tile(consumer<C> &me, const problem &p)
{
    memory<C> &shm = shared<C>();
    wait_full(shm.values, me.values);
    begin_values<C>(me.o, me.weights, me.values, me.add);
    end_values(me.o, me.weights);
    store<C>(me.o, me.l, scaled(load_pair(r_of_row<C>()), p.c), p, me.tile, me.warpgroup);
}

template <class C> INLINE void consume(const problem &p, int warpgroup)
{
    consumer<C> me = { warpgroup, tile_of_block<C>(p) };
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
    end_tile(me, p);
}

template <class C> static __global__ void __launch_bounds__(128 * (C::WARPGROUPS + 1), 1)
    overlapped_attention_kernel(const __grid_constant__ struct problem p)
{
    needs_hopper();
    if constexpr (HOPPER) {
        begin_rings<C>(C::WARPGROUPS);
        int warpgroup = uniform(threadIdx.x / 128);
        if (warpgroup == C::WARPGROUPS) {
            produce<C>(p);
        } else {
            more_registers<C::REGISTERS>();
            consume<C>(p, warpgroup);
        }
    }
}

/* ---- launching */

template <class C, class T> static void launch_for(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                                                  cudaStream_t stream)
{
    static_assert(sizeof(memory<C>) <= SHARED_BYTES, "more than a block's shared memory");
    static_assert(C::FRAGMENTS + C::BC / 4 <= C::REGISTERS, "O, S and P are more than a consumer's registers");
    static_assert(C::PRODUCER_REGISTERS >= 24, "too few registers are left to a producer");
    struct problem of;
    if (!problem_of<C>(&of, O, lse, Q, K, V, p))
        return;
    cudaFuncSetAttribute(overlapped_attention_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<C>));
    timeline_at_exit();
    overlapped_attention_kernel<C><<<of.tiles, 128 * (C::WARPGROUPS + 1), sizeof(memory<C>), stream>>>(of);
}

/* Which sizes for which problem: docs/lab-notes.md has the measurements behind it. */
template <class T>
static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, p))
        return;
    if (p.dim == 64 && p.seq_k <= (p.causal ? 4096 : 1024))
        launch_for<config<T, dim_64_short>>(O, lse, Q, K, V, p, stream);
    else if (p.dim == 64)
        launch_for<config<T, dim_64_long>>(O, lse, Q, K, V, p, stream);
    else
        launch_for<config<T, dim_128>>(O, lse, Q, K, V, p, stream);
}

void overlapped_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p,
                                   void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

void overlapped_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p,
                                   void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

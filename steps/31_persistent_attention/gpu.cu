/*
 * Step 31, persistent attention: one block an SM, which stays, and never drains. Needs sm_90a.
 *
 *     products of one warpgroup, in turn:    S3   S2 PV3   S1 PV2   S0 PV1 | S3' PV0   S2' PV3'   ...
 *                                                                   tile 0 | tile 1
 *
 * The first scores of a tile are computed beside the last P V of the tile before, whose results leave while the next is under
 * way. Queries come a tile ahead, and each warp has a box of its own for the results.
 *
 *     producer of K    asks for the next tile (a number: everything follows from it), announces it in a ring, loads blocks of K
 *     producer of V    reads the ring, loads the same blocks of V
 *     producer of Q    reads the ring, loads the tile's queries, for each warpgroup its own 64, into one of two places
 *     consumers        read the ring, and read Q, K and V as these arrive
 *
 * Under a causal mask tiles are not equally long: whoever is free takes the next, the longest first, in sections of heads; and a
 * warpgroup skips blocks that only rows of others see. Otherwise they are, and each block takes every gridDim.x-th.
 *
 * Changed since step 30: where Q and results lie; begin_tile() and skip(); first_block(), which joins two tiles; end_tile().
 * next_block() is the same, but for EARLY.
 */
#include "hopper.cuh"
#include "machine.h"
#include "steps.h"
#include "timeline.cuh"

#define TILES 4            /* announced, and not yet finished */

/* What a block is made of, by head dimension and number of keys: config in hopper.cuh says what is what. */
struct dim_64_short { static constexpr int DIM = 64,  WARPGROUPS = 4, BC = 64,  STAGES = 4, REGISTERS = 112, EARLY = 4; };
struct dim_64_long  { static constexpr int DIM = 64,  WARPGROUPS = 3, BC = 128, STAGES = 4, REGISTERS = 160, EARLY = 8; };
struct dim_128      { static constexpr int DIM = 128, WARPGROUPS = 2, BC = 128, STAGES = 2, REGISTERS = 240, EARLY = 4; };

template <class C> struct __align__(1024) memory {
    typename C::T q[C::WARPGROUPS][2][WARPGROUP_ROWS * C::DIM]; /* 64 queries each, of this tile and of the next */
    typename C::T k[C::STAGES][C::BC * C::DIM], v[C::STAGES][C::BC * C::DIM];
    typename C::T o[C::WARPGROUPS * 4][16 * C::DIM]; /* a warp's results on their way out */
    float2 m[C::WARPGROUPS * 128], r[C::WARPGROUPS * 32]; /* what rows refer to, times c and as it is: registers are scarce */
    struct tile tile[TILES];
    ring<2> queries[C::WARPGROUPS];
    ring<C::STAGES> keys, values;
    ring<TILES> tiles;
};

/* What a consumer thread has in registers. */
template <class C> struct consumer {
    int warpgroup;
    uint32_t keys, values, tiles;   /* blocks of K, blocks of V, and tiles, that are behind it */
    int block, masked_from;         /* the block it is at; blocks from masked_from on need a mask */
    bool add;                       /* whether the next P V adds to O: not the first of a tile */
    float o[C::DIM / 2], l[2];
    uint32_t weights[C::BC / 4];    /* of the block before: the next product's operand */
};

/* ---- tiles */

/* A problem, and who takes which of its tiles. */
struct schedule : problem {
    /* [0]: tiles, beyond the first of each block; [1]: blocks that have no more to do. 0 between launches */
    int *handed_out;
    int section;            /* heads whose tiles are handed out together */
    bool on_demand;         /* whoever is free takes the next tile; otherwise each block takes every gridDim.x-th */
};

/* In the order of handing out: a section of heads after the other; in it the last rows first, which see the most keys. No blocks:
   there are no more tiles. */
template <class C> INLINE struct tile tile_at(const schedule &p, int i)
{
    if (i >= p.tiles)
        return {};
    int first_head = i / (p.section * p.row_tiles) * p.section, heads = min(p.section, p.heads - first_head);
    int in_section = i - first_head * p.row_tiles;
    return tile_from<C>(p, first_head + in_section % heads, (p.row_tiles - 1 - in_section / heads) * C::BR);
}

template <class C> INLINE struct tile announced(uint32_t n)
{
    int4 t = shared_load(shared_address(&shared<C>().tile[n % TILES]));
    return { t.x, t.y, t.z, t.w };
}

/* By one thread: t is the n-th tile. It waits until the one that lay in its place has been let go by all. */
template <class C> INLINE void announce(struct tile t, uint32_t n)
{
    memory<C> &shm = shared<C>();
    wait_empty(shm.tiles, n);
    shm.tile[n % TILES] = t;
    announce(shm.tiles, n);
}

/* The n-th tile, when it has been announced, and its place let go: for a producer, who needs it no longer than that. */
template <class C> INLINE struct tile take(uint32_t n)
{
    memory<C> &shm = shared<C>();
    wait_full(shm.tiles, n);
    struct tile t = announced<C>(n);
    release(shm.tiles, n);
    return t;
}

/* ---- producers */

/* One thread: hands out the tiles, and loads the blocks of K of each, from the last to the first, as soon as there is an empty
   place. mark() is for `make timeline`. */
template <class C> INLINE void produce_keys(const schedule &p)
{
    memory<C> &shm = shared<C>();
    uint32_t keys = 0, tiles = 0;
    int next = blockIdx.x;
    struct tile t = tile_at<C>(p, next);
    announce<C>(t, tiles++);
    while (t.blocks) {
#pragma unroll 1
        for (int block = t.blocks - 1; block >= 0; block--) {
            if (block == 0) /* the answer comes while this thread waits for a place */
                next = p.on_demand ? gridDim.x + atomicAdd(&p.handed_out[0], 1) : next + gridDim.x;
            load(shm.keys, keys++, shm.k, C::BYTES, &p.map.k, block * C::BC, t.kv_head, KEEP_IN_L2);
            mark(BEGAN_K, keys - 1);
        }
        t = tile_at<C>(p, next);
        announce<C>(t, tiles++);
    }
    if (p.on_demand && atomicAdd(&p.handed_out[1], 1) == gridDim.x - 1)
        p.handed_out[0] = p.handed_out[1] = 0; /* the last of all: for the next launch */
}

/* Another thread: of each tile that has been announced, the blocks of V. */
template <class C> INLINE void produce_values(const problem &p)
{
    memory<C> &shm = shared<C>();
    struct tile t = take<C>(0);
    uint32_t values = 0;
    for (uint32_t tiles = 0; t.blocks; t = take<C>(++tiles)) {
#pragma unroll 1
        for (int block = t.blocks - 1; block >= 0; block--) {
            load(shm.values, values++, shm.v, C::BYTES, &p.map.v, block * C::BC, t.kv_head, KEEP_IN_L2);
            mark(BEGAN_V, values - 1);
        }
    }
}

/* And another: its queries, for each warpgroup its own 64, a tile ahead. */
template <class C> INLINE void produce_queries(const problem &p)
{
    memory<C> &shm = shared<C>();
    struct tile t = take<C>(0);
    for (uint32_t tiles = 0; t.blocks; t = take<C>(++tiles))
        for (int i = 0; i < C::WARPGROUPS; i++)
            load(shm.queries[i], tiles, shm.q[i], sizeof shm.q[i][0], &p.map.q, t.first_row + WARPGROUP_ROWS * i, t.head,
                 READ_ONCE);
}

/* As a warpgroup, which hands over its registers: three of its threads, each in a warp of its own. */
template <class C> INLINE void produce(const schedule &p)
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

/* Blocks that only rows of other warpgroups see: n, and how many
   follow. There is no product here, so a barrier joins the warps. */
template <int N> INLINE void skip(ring<N> &r, uint32_t &n, int blocks, int warpgroup)
{
    for (; blocks > 0; blocks--) {
        wait_full(r, n);
        named_barrier(1 + warpgroup, 128);
        release_together(r, n++);
    }
}

/*
 * Where the warpgroup's rows end, and which blocks need a mask. Returns how many blocks they do not see at all. What comes out of
 * memory might differ from lane to lane; uniform() lets the compiler know that the loops over blocks are the same for all.
 */
template <class C> INLINE int begin_tile(consumer<C> &me, const problem &p)
{
    struct tile t = announced<C>(me.tiles);
    int first = t.first_row + WARPGROUP_ROWS * me.warpgroup + p.more; /* keys that the first row sees; the last sees 63 more */
    int blocks = max(1, (min(p.seq_k, first + WARPGROUP_ROWS - 1) + C::BC - 1) / C::BC);
    me.block = uniform(blocks - 1);
    me.masked_from = uniform(max(0, min(p.seq_k, first)) / C::BC);
    return uniform(t.blocks - blocks);
}

/* O leaves through the warp's box, panel by panel. l, m: of the tile
   that is over; those of `me` may be the next one's already. */
template <class C> INLINE void end_tile(consumer<C> &me, const problem &p, struct tile t, float2 l, float2 m)
{
    int row = t.first_row + WARPGROUP_ROWS * me.warpgroup + row_of_thread();
    rescale(me.o, finish_rows(p.lse ? p.lse + (int64_t)t.head * p.seq_q + row : NULL, p.seq_q - row, l, m));
    store_rows(me.o, p, shared_address(shared<C>().o[threadIdx.x / 32]), 16 * 128, row, t.head, typename C::T());
}

/* The first block of a tile: there is nothing yet to be followed. The last P V of the tile before, if any, runs beside it. */
template <class C, bool BEFORE> INLINE void first_block(consumer<C> &me, const problem &p)
{
    memory<C> &shm = shared<C>();
    float s[C::BC / 2];
    int skipped = begin_tile(me, p);
    skip(shm.keys, me.keys, skipped, me.warpgroup);
    wait_full(shm.queries[me.warpgroup], me.tiles);
    if (p.sign != 1.0f)
        multiply_queries(shm.q[me.warpgroup][me.tiles % 2], p.sign, me.warpgroup);
    wait_full(shm.keys, me.keys);
    mark(WAITED_FOR_K, me.keys);
    begin_scores<C>(s, shm.q[me.warpgroup][0], me.keys, me.tiles % 2);
    if (BEFORE) {
        wait_full(shm.values, me.values);
        begin_values<C>(me.o, me.weights, me.values, me.add);
    }
    mark(BEGAN_PRODUCTS, me.keys);
    wgmma_wait<BEFORE>();
    arrived(s);
    mark(GOT_SCORES, me.keys);
    release_together(shm.keys, me.keys++);
    if (BEFORE)
        release_together(shm.queries[me.warpgroup], me.tiles - 1);
    if (me.block >= me.masked_from)
        mask_block(s, p, announced<C>(me.tiles).first_row, me.warpgroup, me.block * C::BC);
    float2 l = make_float2(me.l[0], me.l[1]), before = load_pair(r_of_row<C>());
    float2 r = make_float2(row_maximum(s, 0), row_maximum(s, 1));
    me.l[0] = me.l[1] = 0.0f;
    exponentials<0, C::BC / 8>(s, keep_reference<C>(s, r, p.c), p.c, me.l);
    if (BEFORE) {
        stay_above(l.x + me.l[0] + me.l[1]);
        end_values(me.o, me.weights);
        release_together(shm.values, me.values++);
    }
    pack_weights(me.weights, s, typename C::T());
    mark(DID_SOFTMAX, me.keys - 1);
    if (BEFORE) {
        end_tile(me, p, announced<C>(me.tiles - 1), l, scaled(before, p.c));
        release(shm.tiles, me.tiles - 1);
    }
    skip(shm.values, me.values, skipped, me.warpgroup);
    me.add = false;
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
    begin_scores<C>(s, shm.q[me.warpgroup][0], me.keys, me.tiles % 2);
    wait_full(shm.values, me.values);
    begin_values<C>(me.o, me.weights, me.values, me.add);
    me.add = true;
    mark(BEGAN_PRODUCTS, me.keys);
    wgmma_wait<1>(); /* for the scores; P V may still run */
    arrived(s);
    mark(GOT_SCORES, me.keys);
    release_together(shm.keys, me.keys++);
    if (MASKED)
        mask_block(s, p, announced<C>(me.tiles).first_row, me.warpgroup, me.block * C::BC);
    float2 m = follow(s, old, p.c);
    bool rare = __any_sync(ALL_LANES, m.x != old.x || m.y != old.y); /* as in step 29 */
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

/*
 * As a warpgroup: tile after tile, until one without blocks is announced. The last P V of a tile is left to the first block of
 * the next, and with it O; that of the last tile has nothing to run beside.
 */
template <class C> INLINE void consume(const problem &p, int warpgroup)
{
    consumer<C> me = { warpgroup };
    wait_full(shared<C>().tiles, 0);
    first_block<C, false>(me, p);
    for (;;) {
        me.block--;
#pragma unroll 1
        for (; me.block >= me.masked_from && me.block >= 0; me.block--)
            next_block<C, true>(me, p);
#pragma unroll 1
        for (; me.block >= 0; me.block--)
            next_block<C, false>(me, p);
        wait_full(shared<C>().tiles, ++me.tiles);
        if (announced<C>(me.tiles).blocks == 0)
            break;
        first_block<C, true>(me, p);
    }
    wait_full(shared<C>().values, me.values);
    begin_values<C>(me.o, me.weights, me.values, me.add);
    end_values(me.o, me.weights);
    end_tile(me, p, announced<C>(me.tiles - 1), make_float2(me.l[0], me.l[1]), scaled(load_pair(r_of_row<C>()), p.c));
    if (lane() == 0)
        tma_store_wait_read<0>(); /* shared memory must last until the boxes have been read */
}

template <class C> static __global__ void __launch_bounds__(128 * (C::WARPGROUPS + 1), 1)
    persistent_attention_kernel(const __grid_constant__ struct schedule p)
{
    needs_hopper();
    if constexpr (HOPPER) {
        if (threadIdx.x == 0)
            ring_init(shared<C>().tiles, 128 * C::WARPGROUPS + 2); /* all consumers, and the producers of V and Q */
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
                                                  void *workspace, cudaStream_t stream)
{
    static_assert(sizeof(memory<C>) <= SHARED_BYTES, "more than a block's shared memory");
    static_assert(C::FRAGMENTS + C::BC / 4 <= C::REGISTERS, "O, S and P are more than a consumer's registers");
    static_assert(C::PRODUCER_REGISTERS >= 24, "too few registers are left to a producer");
    struct schedule of;
    of.handed_out = (int *)workspace;
    of.section = p.causal ? min((int)(p.batch * p.heads), 2048 / C::DIM) : 1;
    of.on_demand = p.causal;
    if (!problem_of<C>(&of, O, lse, Q, K, V, p))
        return;
    cudaFuncSetAttribute(persistent_attention_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<C>));
    timeline_at_exit();
    persistent_attention_kernel<C><<<min(gpu_sms(), of.tiles), 128 * (C::WARPGROUPS + 1), sizeof(memory<C>), stream>>>(of);
}

/* Which sizes for which problem: as in step 29; docs/lab-notes.md has the measurements. */
template <class T>
static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p, void *workspace, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, p))
        return;
    if (p.dim == 64 && p.seq_k <= (p.causal ? 4096 : 1024))
        launch_for<config<T, dim_64_short>>(O, lse, Q, K, V, p, workspace, stream);
    else if (p.dim == 64)
        launch_for<config<T, dim_64_long>>(O, lse, Q, K, V, p, workspace, stream);
    else
        launch_for<config<T, dim_128>>(O, lse, Q, K, V, p, workspace, stream);
}

void persistent_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p,
                                   void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, workspace, stream);
}

void persistent_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p,
                                   void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, workspace, stream);
}

size_t persistent_attention_workspace(struct attention, enum dtype)
{
    return 2 * sizeof(int);
}

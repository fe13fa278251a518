/*
 * Step 16, optimistic attention: no maximum, no shuffle, no rescaling in the loop. Needs sm_90a.
 *
 * Softmax gives the same quotient for any reference m:   sum exp(s - m) v / sum exp(s - m).   The maximum is there against overflow
 * alone. So take the maximum of a row's first block of keys for m, keep it, and look afterwards:
 *
 *     the block's sum of exp(s - m) < BOUND?   always, on random scores; then that was all
 *     if not, in any row of the warpgroup      compute the block's scores again, and let the rows that overflowed refer to their
 *                                              true maximum, as in step 15; the other rows keep their m, and their bits
 *
 * K stays in its place until the sums have been looked at, because the repair needs it again. BOUND is what fp16 can hold, and
 * leaves the values all of fp32's range but 2^14.
 *
 * Changed since step 15: next_block() checks instead of looking for a maximum first; repair().
 */
#include "hopper.cuh"
#include "steps.h"

#define BOUND 0x1p14f      /* of a lane's sum of exponentials in a block: below 65504, where fp16 ends */
#define TILES 4            /* announced, and not yet finished */

/* What a block is made of. A tile is WGS times ROWS queries; its keys come in blocks of BC. */
template <class ELEMENT, int HEAD_DIM, int WARPGROUPS, int KEYS, int PLACES, int KEEP> struct shape {
    typedef ELEMENT T;
    static constexpr int DIM = HEAD_DIM, WGS = WARPGROUPS, BR = ROWS * WGS, BC = KEYS;
    static constexpr int STAGES = PLACES;          /* places for blocks of K, and as many for blocks of V */
    static constexpr int REGISTERS = KEEP;         /* of a consumer. A producer needs few */
    static constexpr int BYTES = BC * DIM * 2;     /* of a block of keys */
    static constexpr int HALF = BC / 16;           /* eights of a block that are exponentiated before the wait for P V */
};

/* A tile of one head: queries from first_row on, and blocks - 1, ..., 0 of keys. No blocks: there are no more tiles. */
struct tile {
    int head, kv_head, first_row, blocks;
};

struct problem {
    CUtensorMap q, k, v, o;
    float *lse;
    int *handed_out;        /* [0]: tiles, beyond the first of each block; [1]: blocks that have no more to do. 0 between launches */
    int seq_q, seq_k, heads, kv_heads, all_heads;
    int row_tiles, tiles;   /* of a head; of all */
    int section;            /* heads whose tiles are handed out together */
    int more;               /* query i sees the keys below i + more, and below seq_k */
    float c;                /* scale log2(e) */
};

template <class S> struct __align__(1024) memory {
    typename S::T q[S::WGS][2][ROWS * S::DIM];      /* a warpgroup's queries, of this tile and of the next */
    typename S::T k[S::STAGES][S::BC * S::DIM], v[S::STAGES][S::BC * S::DIM];
    typename S::T o[S::WGS * 4][16 * S::DIM];       /* a warp's results on their way out */
    float2 m[S::WGS * 128];                         /* of a thread's two rows, times c: registers are too scarce */
    struct tile tile[TILES];
    ring<2> queries[S::WGS];
    ring<S::STAGES> keys, values;
    ring<TILES> tiles;
};

template <class S> INLINE memory<S> &shared(void)
{
    extern __shared__ __align__(1024) unsigned char bytes[];
    return *(memory<S> *)bytes;
}

/* What a consumer thread has in registers. */
template <class S> struct consumer {
    int warpgroup;
    uint32_t keys, values, tiles;   /* blocks of K, blocks of V, and tiles, that are behind it */
    int block, masked_from;         /* the block it is at; blocks from masked_from on need a mask */
    bool add;                       /* whether the next P V adds to O: not the first of a tile */
    float o[S::DIM / 2], l[2];
    uint32_t p[S::BC / 4];          /* the weights of the block before: the next product's operand */
};

/* ---- tiles */

/* In the order of handing out: a section of heads after the other; in it the last rows first, which see the most keys. */
template <class S> INLINE struct tile tile_at(const problem &p, int i)
{
    struct tile t = {};
    if (i < p.tiles) {
        int first_head = i / (p.section * p.row_tiles) * p.section, heads = min(p.section, p.all_heads - first_head);
        int in_section = i - first_head * p.row_tiles;
        t.head = first_head + in_section % heads;
        t.kv_head = t.head / p.heads * p.kv_heads + t.head % p.heads / (p.heads / p.kv_heads);
        t.first_row = (p.row_tiles - 1 - in_section / heads) * S::BR;
        t.blocks = max(1, (min(p.seq_k, t.first_row + S::BR - 1 + p.more) + S::BC - 1) / S::BC);
    }
    return t;
}

template <class S> INLINE struct tile announced(uint32_t n)
{
    int4 t = shared_load(shared_address(&shared<S>().tile[n % TILES]));
    return { t.x, t.y, t.z, t.w };
}

template <class S> INLINE void announce(struct tile t, uint32_t n)
{
    memory<S> &m = shared<S>();
    wait_empty(m.tiles, n);
    m.tile[n % TILES] = t;
    mbarrier_arrive(shared_address(&m.tiles.full[n % TILES]));
}

/* ---- producers: one thread loads K, and hands out the tiles; another loads V */

template <class S> INLINE void produce_keys(const problem &p)
{
    memory<S> &m = shared<S>();
    uint32_t keys = 0, tiles = 0;
    int next = blockIdx.x;
    struct tile t = tile_at<S>(p, next);
    announce<S>(t, tiles++);
    while (t.blocks) {
#pragma unroll 1
        for (int block = t.blocks - 1; block >= 0; block--) {
            if (block == 0) /* the answer comes while this thread waits for a place */
                next = p.section > 1 ? gridDim.x + atomicAdd(&p.handed_out[0], 1) : next + gridDim.x;
            load(m.keys, keys++, m.k, S::BYTES, &p.k, block * S::BC, t.kv_head, KEEP_IN_L2);
        }
        t = tile_at<S>(p, next);
        announce<S>(t, tiles++);
    }
    if (p.section > 1 && atomicAdd(&p.handed_out[1], 1) == gridDim.x - 1)
        p.handed_out[0] = p.handed_out[1] = 0; /* the last of all: for the next launch */
}

template <class S> INLINE void produce_values(const problem &p)
{
    memory<S> &m = shared<S>();
    uint32_t values = 0;
    for (uint32_t tiles = 0;; tiles++) {
        wait_full(m.tiles, tiles);
        struct tile t = announced<S>(tiles);
        release(m.tiles, tiles);
        if (t.blocks == 0)
            return;
#pragma unroll 1
        for (int block = t.blocks - 1; block >= 0; block--)
            load(m.values, values++, m.v, S::BYTES, &p.v, block * S::BC, t.kv_head, KEEP_IN_L2);
    }
}

/* ---- consumers: a warpgroup has 64 queries of each tile, and loads them itself, into the buffer that it is through with */

template <class S> INLINE void load_queries(const consumer<S> &me, const problem &p, uint32_t n)
{
    memory<S> &m = shared<S>();
    wait_full(m.tiles, n);
    struct tile t = announced<S>(n);
    uint32_t full = shared_address(&m.queries[me.warpgroup].full[n % 2]);
    if (threadIdx.x % 128 == 0 && t.blocks) {
        mbarrier_arrive_expect(full, ROWS * S::DIM * 2);
        tma_load(shared_address(m.q[me.warpgroup][n % 2]), &p.q, full, t.first_row + ROWS * me.warpgroup, 0, t.head, READ_ONCE);
    }
}

/* Blocks that only rows of other warpgroups see: n, and how many follow. There is no product here, so a barrier joins the warps. */
template <int N> INLINE void skip(ring<N> &r, uint32_t &n, int blocks, int warpgroup)
{
    for (; blocks > 0; blocks--) {
        wait_full(r, n);
        named_barrier(1 + warpgroup, 128);
        release_together(r, n++);
    }
}

template <class S> INLINE void begin_scores(float (&s)[S::BC / 2], const consumer<S> &me)
{
    memory<S> &m = shared<S>();
    uint64_t q = wgmma_descriptor(shared_address(m.q[me.warpgroup]), 0) + me.tiles % 2 * (sizeof m.q[0][0] / 16);
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
    int row = announced<S>(me.tiles).first_row + ROWS * me.warpgroup + row_of_thread(), first = me.block * S::BC;
    mask(s, min(p.seq_k, row + p.more) - first, min(p.seq_k, row + 8 + p.more) - first);
}

template <class S> INLINE uint32_t m_of_thread(void)
{
    return shared_address(&shared<S>().m[threadIdx.x]);
}

/* ---- consumers: a tile */

/* Where the warpgroup's rows end, and which blocks need a mask. Returns how many blocks they do not see at all. */
template <class S> INLINE int begin_tile(consumer<S> &me, const problem &p)
{
    struct tile t = announced<S>(me.tiles);
    int first = t.first_row + ROWS * me.warpgroup + p.more; /* keys that the first row sees; the last sees 63 more */
    int blocks = max(1, (min(p.seq_k, first + ROWS - 1) + S::BC - 1) / S::BC);
    me.block = blocks - 1;
    me.masked_from = max(0, min(p.seq_k, first)) / S::BC;
    return t.blocks - blocks;
}

/* O leaves through the warp's box, panel by panel. l, m: of the tile that is over; those of `me` may be the next one's already. */
template <class S> INLINE void end_tile(consumer<S> &me, const problem &p, struct tile t, float2 l, float2 m)
{
    int row = t.first_row + ROWS * me.warpgroup + row_of_thread();
    rescale(me.o, finish_rows(p.lse ? p.lse + (int64_t)t.head * p.seq_q + row : NULL, p.seq_q - row, l, m));
    uint32_t box = shared_address(shared<S>().o[threadIdx.x / 32]);
#pragma unroll
    for (int panel = 0; panel < S::DIM / PANEL; panel++, box += 16 * 128) {
        if (lane() == 0)
            tma_store_wait_read<S::DIM / PANEL - 1>(); /* what was in this box before has left */
        __syncwarp();
        fill_box(box, me.o, panel, typename S::T());
        if (lane() == 0)
            tma_store(&p.o, box, row - lane() / 4, panel, t.head);
    }
}

/* The first block of a tile: its maxima are what the tile refers to. The last P V of the tile before, if any, runs beside it. */
template <class S, bool BEFORE> INLINE void first_block(consumer<S> &me, const problem &p)
{
    memory<S> &shm = shared<S>();
    float s[S::BC / 2];
    int skipped = begin_tile(me, p);
    skip(shm.keys, me.keys, skipped, me.warpgroup);
    wait_full(shm.queries[me.warpgroup], me.tiles);
    wait_full(shm.keys, me.keys);
    begin_scores(s, me);
    if (BEFORE) {
        wait_full(shm.values, me.values);
        begin_values(me, me.add);
    }
    wgmma_wait<BEFORE>();
    arrived(s);
    release_together(shm.keys, me.keys++);
    if (me.block == 0)
        load_queries(me, p, me.tiles + 1);
    if (me.block >= me.masked_from)
        mask_block(s, me, p);
    float2 l = make_float2(me.l[0], me.l[1]), m = load_pair(m_of_thread<S>());
    me.l[0] = me.l[1] = 0.0f;
    store_pair(m_of_thread<S>(), make_float2(row_maximum(s, 0) * p.c, row_maximum(s, 1) * p.c));
    exponentials<0, S::BC / 8>(s, load_pair(m_of_thread<S>()), p.c, me.l);
    if (BEFORE) {
        stay_above(l.x + me.l[0] + me.l[1]);
        end_values(me.o, me.p);
        release_together(shm.values, me.values++);
    }
    pack_weights(me.p, s, typename S::T());
    if (BEFORE) {
        end_tile(me, p, announced<S>(me.tiles - 1), l, m);
        __syncwarp();
        if (lane() == 0)
            release(shm.tiles, me.tiles - 1);
    }
    skip(shm.values, me.values, skipped, me.warpgroup);
    me.add = false;
}

/* A sum is out of bounds, or NaN. The rows where it is refer to their maximum from now on. */
template <class S> INLINE void repair(float (&s)[S::BC / 2], consumer<S> &me, const problem &p, float (&sum)[2], bool masked)
{
    begin_scores(s, me);
    wgmma_wait<0>();
    arrived(s);
    if (masked)
        mask_block(s, me, p);
    float2 old = load_pair(m_of_thread<S>());
    float m[2] = { old.x, old.y }, factor[2];
    for (int h = 0; h < 2; h++) {
        bool out = __ballot_sync(ALL_LANES, !(sum[h] < BOUND)) >> (lane() & ~3) & 15; /* in any of the row's lanes */
        float above = fmaxf(m[h], row_maximum(s, h) * p.c);
        above = out ? above : m[h];
        factor[h] = ex2(m[h] - above);
        m[h] = above;
        me.l[h] *= factor[h];
        sum[h] = 0.0f;
    }
    rescale(me.o, make_float2(factor[0], factor[1]));
    store_pair(m_of_thread<S>(), make_float2(m[0], m[1]));
    exponentials<0, S::BC / 8>(s, load_pair(m_of_thread<S>()), p.c, sum);
    pack_weights(me.p, s, typename S::T());
}

/* Any other block: its scores, and then its exponentials, are computed beside P V of the block before. */
template <class S, bool MASKED> INLINE void next_block(consumer<S> &me, const problem &p)
{
    memory<S> &shm = shared<S>();
    float s[S::BC / 2], sum[2] = { 0.0f, 0.0f };
    wait_full(shm.keys, me.keys);
    float2 m = load_pair(m_of_thread<S>()); /* early: it is here when the scores are */
    begin_scores(s, me);
    wait_full(shm.values, me.values);
    begin_values(me, me.add);
    me.add = true;
    if (me.block == 0)
        load_queries(me, p, me.tiles + 1);
    wgmma_wait<1>(); /* for the scores; P V may still run */
    arrived(s);
    if (MASKED)
        mask_block(s, me, p);
    exponentials<0, S::HALF>(s, m, p.c, sum);
    if (__any_sync(ALL_LANES, me.l[0] + sum[0] + sum[1] < 0.0f)) { /* never: as stay_above(), but without a trap in the loop */
        end_values(me.o, me.p);
        rescale(me.o, make_float2(0.0f, 0.0f));
    } else {
        end_values(me.o, me.p);
    }
    release_together(shm.values, me.values++);
    exponentials<S::HALF, S::BC / 8>(s, m, p.c, sum);
    pack_weights(me.p, s, typename S::T());
    if (named_barrier_any(1 + me.warpgroup, 128, !(sum[0] + sum[1] < BOUND)))
        repair(s, me, p, sum, MASKED);
    me.l[0] += sum[0];
    me.l[1] += sum[1];
    release_together(shm.keys, me.keys++); /* only now */
}

template <class S> INLINE void consume(const problem &p, int warpgroup)
{
    consumer<S> me = { warpgroup };
    load_queries(me, p, 0);
    first_block<S, false>(me, p);
    for (;;) {
        me.block--;
#pragma unroll 1
        for (; me.block >= me.masked_from && me.block >= 0; me.block--)
            next_block<S, true>(me, p);
#pragma unroll 1
        for (; me.block >= 0; me.block--)
            next_block<S, false>(me, p);
        me.tiles++;
        if (announced<S>(me.tiles).blocks == 0)
            break;
        first_block<S, true>(me, p);
    }
    wait_full(shared<S>().values, me.values);
    begin_values(me, me.add);
    end_values(me.o, me.p);
    end_tile(me, p, announced<S>(me.tiles - 1), make_float2(me.l[0], me.l[1]), load_pair(m_of_thread<S>()));
    if (lane() == 0)
        tma_store_wait_read<0>(); /* shared memory must last until the boxes have been read */
}

template <class S> static __global__ void __launch_bounds__(128 * (S::WGS + 1), 1)
    optimistic_attention_kernel(const __grid_constant__ struct problem p)
{
    if constexpr (HOPPER) {
        memory<S> &m = shared<S>();
        if (threadIdx.x == 0) {
            for (int i = 0; i < S::WGS; i++)
                ring_init(m.queries[i], 1);
            ring_init(m.keys, S::WGS);
            ring_init(m.values, S::WGS);
            ring_init(m.tiles, 4 * S::WGS + 1); /* a lane of each consumer warp, and the producer of V */
            mbarrier_init_fence();
        }
        __syncthreads();
        int warpgroup = uniform(threadIdx.x / 128);
        if (warpgroup == S::WGS) {
            fewer_registers<S::WGS == 3 ? 32 : 24>();
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
                                                  void *workspace, cudaStream_t stream)
{
    int64_t heads = a.batch * a.heads, kv_heads = a.batch * a.kv_heads;
    struct problem p = {};
    p.q = attention_map(Q, heads, a.seq_q, S::DIM, ROWS, S::DIM / PANEL);
    p.k = attention_map(K, kv_heads, a.seq_k, S::DIM, S::BC, S::DIM / PANEL);
    p.v = attention_map(V, kv_heads, a.seq_k, S::DIM, S::BC, S::DIM / PANEL);
    p.o = attention_map(O, heads, a.seq_q, S::DIM, 16, 1);
    p.lse = lse, p.handed_out = (int *)workspace;
    p.seq_q = (int)a.seq_q, p.seq_k = (int)a.seq_k;
    p.heads = (int)a.heads, p.kv_heads = (int)a.kv_heads, p.all_heads = (int)heads;
    p.row_tiles = (p.seq_q + S::BR - 1) / S::BR, p.tiles = p.row_tiles * p.all_heads;
    p.section = a.causal ? min(p.all_heads, 2048 / S::DIM) : 1;
    p.more = a.causal ? p.seq_k - p.seq_q + 1 : p.seq_k;
    p.c = a.scale * LOG2E;
    cudaFuncSetAttribute(optimistic_attention_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<S>));
    optimistic_attention_kernel<S><<<min(multiprocessors(), p.tiles), 128 * (S::WGS + 1), sizeof(memory<S>), stream>>>(p);
}

/* Which shape for which problem: the lesson has the measurements behind it. */
template <class T> static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention a, void *workspace,
                                      cudaStream_t stream)
{
    if (a.dim == 128)
        launch_as<shape<T, 128, 2, 128, 2, 240>>(O, lse, Q, K, V, a, workspace, stream);
    else if (a.seq_k <= (a.causal ? 4096 : 1024))
        launch_as<shape<T, 64, 4, 64, 4, 112>>(O, lse, Q, K, V, a, workspace, stream);
    else
        launch_as<shape<T, 64, 3, 128, 4, 160>>(O, lse, Q, K, V, a, workspace, stream);
}

void optimistic_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention a,
                                   void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, a, workspace, stream);
}

void optimistic_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention a,
                                   void *workspace, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, a, workspace, stream);
}

size_t optimistic_attention_workspace(struct attention, enum dtype)
{
    return 2 * sizeof(int);
}

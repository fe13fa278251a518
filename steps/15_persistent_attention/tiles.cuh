/*
 * Steps 15 and 16: a block that stays, the tiles that it works on, and the producers that fetch them.
 *
 *     producer of K    asks for the next tile (a number, from which everything follows), announces it in a ring, loads its blocks of K
 *     producer of V    reads the ring, loads the same blocks of V
 *     producer of Q    reads the ring, loads the tile's queries, for each warpgroup its own 64, into one of two buffers
 *     consumers        read the ring, and read Q, K and V as these arrive
 *
 * Under a causal mask tiles are not equally long: whoever is free takes the next, the longest first, in sections of heads. Otherwise
 * they are, and each block takes every gridDim.x-th.
 */
#ifndef TILES_CUH
#define TILES_CUH

#include "hopper.cuh"

#define TILES 4            /* announced, and not yet finished */

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
    bool in_turn;           /* whoever is free takes the next tile; otherwise each block takes every gridDim.x-th */
    int more;               /* query i sees the keys below i + more, and below seq_k */
    float c, sign;          /* |scale| log2(e), and what the queries are to be multiplied by: -1, 0 or 1 */
};

template <class S> struct __align__(1024) memory {
    typename S::T q[S::WGS][2][ROWS * S::DIM];      /* a warpgroup's queries, of this tile and of the next */
    typename S::T k[S::STAGES][S::BC * S::DIM], v[S::STAGES][S::BC * S::DIM];
    typename S::T o[S::WGS * 4][16 * S::DIM];       /* a warp's results on their way out */
    float2 m[S::WGS * 128], r[S::WGS * 32];         /* what rows refer to, times c and as it is: registers are too scarce */
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

/* ---- producers: one thread loads K, and hands out the tiles; others load V and Q */

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
                next = p.in_turn ? gridDim.x + atomicAdd(&p.handed_out[0], 1) : next + gridDim.x;
            load(m.keys, keys++, m.k, S::BYTES, &p.k, block * S::BC, t.kv_head, KEEP_IN_L2);
        }
        t = tile_at<S>(p, next);
        announce<S>(t, tiles++);
    }
    if (p.in_turn && atomicAdd(&p.handed_out[1], 1) == gridDim.x - 1)
        p.handed_out[0] = p.handed_out[1] = 0; /* the last of all: for the next launch */
}

/* The n-th tile, when it has been announced, and its place let go: for a producer, who needs it no longer than that. */
template <class S> INLINE struct tile take(uint32_t n)
{
    memory<S> &m = shared<S>();
    wait_full(m.tiles, n);
    struct tile t = announced<S>(n);
    release(m.tiles, n);
    return t;
}

template <class S> INLINE void produce_values(const problem &p)
{
    memory<S> &m = shared<S>();
    uint32_t values = 0;
    for (uint32_t tiles = 0;; tiles++) {
        struct tile t = take<S>(tiles);
        if (t.blocks == 0)
            return;
#pragma unroll 1
        for (int block = t.blocks - 1; block >= 0; block--)
            load(m.values, values++, m.v, S::BYTES, &p.v, block * S::BC, t.kv_head, KEEP_IN_L2);
    }
}

template <class S> INLINE void produce_queries(const problem &p)
{
    memory<S> &m = shared<S>();
    for (uint32_t tiles = 0;; tiles++) {
        struct tile t = take<S>(tiles);
        if (t.blocks == 0)
            return;
        for (int i = 0; i < S::WGS; i++)
            load(m.queries[i], tiles, m.q[i], ROWS * S::DIM * 2, &p.q, t.first_row + ROWS * i, t.head, READ_ONCE);
    }
}

/* ---- where a block's threads part */

template <class S> INLINE void begin_rings(void)
{
    memory<S> &m = shared<S>();
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::WGS; i++)
            ring_init(m.queries[i], 1);
        ring_init(m.keys, S::WGS);
        ring_init(m.values, S::WGS);
        ring_init(m.tiles, 128 * S::WGS + 2); /* all consumers, and the producers of V and Q */
        mbarrier_init_fence();
    }
    __syncthreads();
}

template <class S> INLINE void produce(const problem &p)
{
    fewer_registers<S::PRODUCER>();
    if (threadIdx.x % 128 == 0)
        produce_keys<S>(p);
    if (threadIdx.x % 128 == 32)
        produce_values<S>(p);
    if (threadIdx.x % 128 == 64)
        produce_queries<S>(p);
}

/* ---- launching */

/* False, and refused, if the copy engine cannot have it. */
template <class S, class T> static bool problem_of(struct problem *of, T *O, float *lse, const T *Q, const T *K, const T *V,
                                                   struct attention a, void *workspace)
{
    int64_t heads = a.batch * a.heads, kv_heads = a.batch * a.kv_heads;
    struct problem p = {};
    static_assert(sizeof(memory<S>) <= SHARED_BYTES, "more than a block's shared memory");
    if (!attention_map(&p.q, Q, heads, a.seq_q, S::DIM, ROWS, S::DIM / PANEL) ||
        !attention_map(&p.k, K, kv_heads, a.seq_k, S::DIM, S::BC, S::DIM / PANEL) ||
        !attention_map(&p.v, V, kv_heads, a.seq_k, S::DIM, S::BC, S::DIM / PANEL) ||
        !attention_map(&p.o, O, heads, a.seq_q, S::DIM, 16, 1))
        return false;
    p.lse = lse, p.handed_out = (int *)workspace;
    p.seq_q = (int)a.seq_q, p.seq_k = (int)a.seq_k;
    p.heads = (int)a.heads, p.kv_heads = (int)a.kv_heads, p.all_heads = (int)heads;
    p.row_tiles = (p.seq_q + S::BR - 1) / S::BR, p.tiles = p.row_tiles * p.all_heads;
    p.section = a.causal ? min(p.all_heads, 2048 / S::DIM) : 1;
    p.in_turn = a.causal;
    p.more = a.causal ? p.seq_k - p.seq_q + 1 : p.seq_k;
    p.c = exponent_scale(a.scale), p.sign = scale_sign(a.scale);
    *of = p;
    return true;
}

#endif

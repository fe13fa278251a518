/*
 * Steps 23 and 24: a block that stays, the tiles that it works on, and the producers that fetch them.
 *
 *     producer of K    asks for the next tile (a number: everything follows from it), announces it in a ring, loads blocks of K
 *     producer of V    reads the ring, loads the same blocks of V
 *     producer of Q    reads the ring, loads the tile's queries, for each warpgroup its own 64, into one of two buffers
 *     consumers        read the ring, and read Q, K and V as these arrive
 *
 * Under a causal mask tiles are not equally long: whoever is free takes the next, the longest first, in sections of heads.
 * Otherwise they are, and each block takes every gridDim.x-th.
 */
#ifndef TILES_CUH
#define TILES_CUH

#include "hopper.cuh"
#include "timeline.cuh"

#define TILES 4            /* announced, and not yet finished */

/* A problem, and who takes which of its tiles. */
struct schedule : problem {
    /* [0]: tiles, beyond the first of each block; [1]: blocks that have no more to do. 0 between launches */
    int *handed_out;
    int section;            /* heads whose tiles are handed out together */
    bool on_demand;         /* whoever is free takes the next tile; otherwise each block takes every gridDim.x-th */
};

template <class C> struct __align__(1024) memory {
    typename C::T q[C::WARPGROUPS][2][WARPGROUP_ROWS * C::DIM];      /* a warpgroup's queries, of this tile and of the next */
    typename C::T k[C::STAGES][C::BC * C::DIM], v[C::STAGES][C::BC * C::DIM];
    typename C::T o[C::WARPGROUPS * 4][16 * C::DIM];       /* a warp's results on their way out */
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

template <class C> INLINE void announce(struct tile t, uint32_t n)
{
    memory<C> &shm = shared<C>();
    wait_empty(shm.tiles, n);
    shm.tile[n % TILES] = t;
    mbarrier_arrive(shared_address(&shm.tiles.full[n % TILES]));
}

/* ---- producers: one thread loads K, and hands out the tiles; others load V and Q */

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

/* The n-th tile, when it has been announced, and its place let go: for a producer, who needs it no longer than that. */
template <class C> INLINE struct tile take(uint32_t n)
{
    memory<C> &shm = shared<C>();
    wait_full(shm.tiles, n);
    struct tile t = announced<C>(n);
    release(shm.tiles, n);
    return t;
}

template <class C> INLINE void produce_values(const problem &p)
{
    memory<C> &shm = shared<C>();
    uint32_t values = 0;
    for (uint32_t tiles = 0;; tiles++) {
        struct tile t = take<C>(tiles);
        if (t.blocks == 0)
            return;
#pragma unroll 1
        for (int block = t.blocks - 1; block >= 0; block--) {
            load(shm.values, values++, shm.v, C::BYTES, &p.map.v, block * C::BC, t.kv_head, KEEP_IN_L2);
            mark(BEGAN_V, values - 1);
        }
    }
}

template <class C> INLINE void produce_queries(const problem &p)
{
    memory<C> &shm = shared<C>();
    for (uint32_t tiles = 0;; tiles++) {
        struct tile t = take<C>(tiles);
        if (t.blocks == 0)
            return;
        for (int i = 0; i < C::WARPGROUPS; i++)
            load(shm.queries[i], tiles, shm.q[i], sizeof shm.q[i][0], &p.map.q, t.first_row + WARPGROUP_ROWS * i, t.head,
                 READ_ONCE);
    }
}

/* ---- where a block's threads part */

template <class C> INLINE void begin_tiles(void)
{
    if (threadIdx.x == 0)
        ring_init(shared<C>().tiles, 128 * C::WARPGROUPS + 2); /* all consumers, and the producers of V and Q */
    begin_rings<C>(C::WARPGROUPS);
}

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

/* ---- launching */

/* False, and refused, if the copy engine cannot have it. */
template <class C, class T> static bool schedule_of(struct schedule *of, T *O, float *lse, const T *Q, const T *K, const T *V,
                                                    struct attention p, void *workspace, struct pitches pitch = {})
{
    of->handed_out = (int *)workspace;
    of->section = p.causal ? min((int)(p.batch * p.heads), 2048 / C::DIM) : 1;
    of->on_demand = p.causal;
    return problem_of<C>(of, O, lse, Q, K, V, p, pitch);
}

#endif

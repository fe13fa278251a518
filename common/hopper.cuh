/*
 * What the Hopper steps, 24 to 32 and 58 to 67, have in common and do not change: maps for the copy engine, the problem as a
 * kernel is given it, rings of places in shared memory, and what a thread does with its share of the scores and of the output.
 */
#ifndef HOPPER_CUH
#define HOPPER_CUH

#include <cuda.h>
#include <cudaTypedefs.h>

#include "gpu.cuh"
#include "wgmma.cuh"

#define WARPGROUP_ROWS 64  /* queries of a warpgroup: what wgmma multiplies at once */
#define LAG 8.0f           /* log2 of how far exp(scores) may exceed exp(m), as in step 23: P <= 2^LAG fits fp16, too */
#define FAR 0x1p20f        /* from here on the rounding of c r would be felt in 2^(c s - c r): see center() */
#define SHARED_BYTES (227 * 1024)  /* of shared memory that a block can have */

/* ---- sizes: what a block is made of. A step chooses, and config adds what follows */

/*
 * Registers that each thread of a producing warpgroup has, beside `warpgroups` of consumers whose threads keep `keep` each. All
 * begin with the same number, and what some take, others give. A producer needs few, and setmaxnreg takes multiples of 8 from 24
 * on.
 */
constexpr int registers_left(int warpgroups, int keep)
{
    return (warpgroups + 1) * registers_of_thread(128 * (warpgroups + 1)) - warpgroups * keep;
}

/*
 *     DIM          of a head
 *     WARPGROUPS   that compute, of WARPGROUP_ROWS queries each: these are a tile
 *     BC           keys of a block of K or V
 *     STAGES       places for blocks of K, and as many for blocks of V
 *     REGISTERS    of a consumer's thread: from step 28 on, where producers hand over theirs
 *     EARLY        eights of a block's keys that are exponentiated before the wait for P V, from step 29 on
 */
template <class ELEMENT, class SIZES> struct config : SIZES {
    typedef ELEMENT T;
    static constexpr int BR = WARPGROUP_ROWS * SIZES::WARPGROUPS; /* queries of a tile */
    static constexpr int BYTES = SIZES::BC * SIZES::DIM * 2;      /* of a block of keys */
    static constexpr int FRAGMENTS = SIZES::DIM / 2 + SIZES::BC / 2; /* registers: a thread's share of O and S */
    static constexpr int PRODUCER_REGISTERS = registers_left(SIZES::WARPGROUPS, SIZES::REGISTERS);
};

/* ---- maps: how the copy engine is told where a tensor lies */

#define PANEL 64  /* elements of a panel's row: 128 bytes, the widest swizzle */

static inline CUtensorMapDataType attention_map_type(fp16) { return CU_TENSOR_MAP_DATA_TYPE_FLOAT16; }
static inline CUtensorMapDataType attention_map_type(bf16) { return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16; }

/* CUDA's function that makes maps; NULL: this driver has none. */
static inline PFN_cuTensorMapEncodeTiled_v12000 map_encoder(void)
{
    static PFN_cuTensorMapEncodeTiled_v12000 encode;
    cudaDriverEntryPointQueryResult found;
    if (!encode)
#if CUDART_VERSION >= 12050
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void **)&encode, 12000, cudaEnableDefault, &found);
#else
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", (void **)&encode, cudaEnableDefault, &found);
#endif
    return encode;
}

#ifdef OTHER_MAPS
#include OTHER_MAPS /* of the library, whose tensors may lie in other ways */
#else
typedef CUtensorMap tensor_map;
typedef int map_head;

/* A head, counted through all batches, as tma_load() takes it. */
INLINE map_head head_of_map(const tensor_map *, int head)
{
    return head;
}

/*
 * A tensor (heads, rows, dim), as the copy engine sees it: (heads, dim / PANEL, rows, PANEL). A box is box_rows rows of all
 * panels, or of `panels` of them, and lies in shared memory panel after panel, the rows of a panel 128 bytes apart, chunk c of
 * row r, 16 bytes, at place c ^ r % 8. The rows are a dimension of their own: a box that goes beyond the last row of a head is
 * filled with zeros, or cut off when it is stored, and does not touch the next head. False, and refused, if there can be no such
 * map. pitch: rows from a head to the next, where there are more than these.
 */
template <class T> static inline bool attention_map(tensor_map *map, const T *tensor, int64_t heads, int64_t rows, int dim,
                                                    int box_rows, int panels, int64_t pitch = 0)
{
    PFN_cuTensorMapEncodeTiled_v12000 encode = map_encoder();
    cuuint64_t sizes[] = { PANEL, (cuuint64_t)rows, (cuuint64_t)dim / PANEL, (cuuint64_t)heads };
    cuuint64_t strides[] = { dim * sizeof(T), PANEL * sizeof(T), (pitch ? pitch : rows) * dim * sizeof(T) }; /* in bytes */
    cuuint32_t box[] = { PANEL, (cuuint32_t)box_rows, (cuuint32_t)panels, 1 }, steps[] = { 1, 1, 1, 1 };
    if (encode && encode(map, attention_map_type(T()), 4, (void *)tensor, sizes, strides, box, steps,
                         CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS)
        return true;
    refuse();
    return false;
}
#endif

struct tensor_maps {
    tensor_map q, k, v, o;
};

/* Of Q, and of K and V, where they are part of each head of larger tensors: rows from a head to the next. 0: they are whole. */
struct pitches {
    int64_t q, k;
};

/* The maps of an attention step: a warpgroup's queries, blocks of keys and of values, and a warp's 16 rows of one panel of O. */
template <class C, class T>
static inline bool attention_maps(struct tensor_maps *map, const T *O, const T *Q, const T *K, const T *V, struct attention a,
                                  struct pitches pitch)
{
    int64_t heads = a.batch * a.heads, kv_heads = a.batch * a.kv_heads;
    return attention_map(&map->q, Q, heads, a.seq_q, C::DIM, WARPGROUP_ROWS, C::DIM / PANEL, pitch.q) &&
           attention_map(&map->k, K, kv_heads, a.seq_k, C::DIM, C::BC, C::DIM / PANEL, pitch.k) &&
           attention_map(&map->v, V, kv_heads, a.seq_k, C::DIM, C::BC, C::DIM / PANEL, pitch.k) &&
           attention_map(&map->o, O, heads, a.seq_q, C::DIM, 16, 1);
}

/* ---- problems: what a kernel is given, and which part of it is a block's */

struct problem {
    struct tensor_maps map;
    float *lse;
    int seq_q, seq_k;
    int heads, group;       /* of all batches; of Q that share one of K and V */
    int row_tiles, tiles;   /* of a head; of all */
    int more;               /* query i sees the keys below i + more, and below seq_k */
    float c, sign;          /* |scale| log2(e), and what the queries are to be multiplied by: -1, 0 or 1 */
};

/* False, and refused, if the copy engine cannot have it. */
template <class C, class T> static bool problem_of(struct problem *p, const T *O, float *lse, const T *Q, const T *K, const T *V,
                                                   struct attention a, struct pitches pitch = {})
{
    if (!attention_maps<C>(&p->map, O, Q, K, V, a, pitch))
        return false;
    p->lse = lse;
    p->seq_q = (int)a.seq_q, p->seq_k = (int)a.seq_k;
    p->heads = (int)(a.batch * a.heads), p->group = (int)attention_group(a);
    p->row_tiles = (p->seq_q + C::BR - 1) / C::BR, p->tiles = p->row_tiles * p->heads;
    p->more = a.causal ? p->seq_k - p->seq_q + 1 : p->seq_k;
    p->c = exponent_scale(a.scale), p->sign = scale_sign(a.scale);
    return true;
}

/* A tile of one head: queries from first_row on, and blocks - 1, ..., 0 of keys, of which there is one at least. */
struct tile {
    int head, kv_head, first_row, blocks;
};

/* The tile of queries from first_row on. Its blocks end with the last key that any of them sees. */
template <class C> INLINE struct tile tile_from(const problem &p, int head, int first_row)
{
    int keys = min(p.seq_k, first_row + C::BR - 1 + p.more);
    return { head, head / p.group, first_row, max(1, (keys + C::BC - 1) / C::BC) };
}

/* A tile to each block: of a head after the other; of each the last rows first, which see the most keys. */
template <class C> INLINE struct tile tile_of_block(const problem &p)
{
    int i = blockIdx.x;
    return tile_from<C>(p, i / p.row_tiles, (p.row_tiles - 1 - i % p.row_tiles) * C::BR);
}

/* What a block has in shared memory: each step says. */
template <class C> struct memory;

template <class C> INLINE memory<C> &shared(void)
{
    extern __shared__ __align__(1024) unsigned char bytes[];
    return *(memory<C> *)bytes;
}

/* ---- rings: N places in shared memory, which a producer fills and consumers read, in turn. N is a power of two */

/*
 * full[i]: something to read has come to place i; empty[i]: all readers are through with it. What is counted from 0 on, the n-th
 * thing, goes to place n % N.
 */
template <int N> struct ring {
    uint64_t full[N], empty[N];
};

/*
 * One thread, once, before mbarrier_init_fence(). readers: how many times release() is called for each thing. writers: as many
 * arrive when it is there; a producer, with the bytes that are to come, or those that announce() it.
 */
template <int N> INLINE void ring_init(ring<N> &r, int readers, int writers = 1)
{
    for (int i = 0; i < N; i++) {
        mbarrier_init(shared_address(&r.full[i]), writers);
        mbarrier_init(shared_address(&r.empty[i]), readers);
    }
}

template <int N> INLINE void wait_empty(ring<N> &r, uint32_t n)
{
    mbarrier_wait(shared_address(&r.empty[n % N]), ~(n / N) & 1);
}

template <int N> INLINE void wait_full(ring<N> &r, uint32_t n)
{
    mbarrier_wait(shared_address(&r.full[n % N]), n / N & 1);
}

template <int N> INLINE void release(ring<N> &r, uint32_t n)
{
    mbarrier_arrive(shared_address(&r.empty[n % N]));
}

template <int N> INLINE void announce(ring<N> &r, uint32_t n)
{
    mbarrier_arrive(shared_address(&r.full[n % N]));
}

/* As a warpgroup, whose warps a product has joined: none of them still waits for this thing. One thread speaks for all. */
template <int N> INLINE void release_together(ring<N> &r, uint32_t n)
{
    if (threadIdx.x % 128 == 0)
        release(r, n);
}

/* The producer's part: wait for a place, and have a box of `bytes` copied there. places: N times `bytes` in shared memory. */
template <int N>
INLINE void load(ring<N> &r, uint32_t n, void *places, int bytes, const tensor_map *map, int row, int head, uint64_t hint)
{
    uint32_t full = shared_address(&r.full[n % N]);
    map_head at = head_of_map(map, head);
    wait_empty(r, n);
    mbarrier_arrive_expect(full, bytes);
    tma_load(shared_address(places) + n % N * bytes, map, full, row, 0, at, hint);
}

/* Rings of queries, keys and values, of which each thing is let go `readers` times. By all threads, before anything else. */
template <class C> INLINE void begin_rings(int readers)
{
    memory<C> &shm = shared<C>();
    if (threadIdx.x == 0) {
        for (int i = 0; i < C::WARPGROUPS; i++)
            ring_init(shm.queries[i], 1);
        ring_init(shm.keys, readers);
        ring_init(shm.values, readers);
        mbarrier_init_fence();
    }
    __syncthreads();
}

/* Queries in shared memory times the sign of a scale that is not positive:
   by the whole warpgroup, before its first product with them. */
template <int ELEMENTS, class T> INLINE void multiply_queries(T (&q)[ELEMENTS], float sign, int warpgroup)
{
#pragma unroll 1 /* few registers, rather than fast */
    for (int i = 0; i < ELEMENTS / 8 / 128; i++) {
        T *eight = &q[8 * (i * 128 + threadIdx.x % 128)];
        float v[8];
        unpack(v, load_pack(eight));
        for (int j = 0; j < 8; j++)
            v[j] *= sign;
        *(pack<T> *)eight = make_pack<T>(v);
    }
    fence_async_shared();
    named_barrier(1 + warpgroup, 128);
}

/* ---- products of a warpgroup: 64 rows of one matrix, with one that is in shared memory, in panels as TMA leaves them there */

/*
 * Begin S = A B^T, in a group of its own. a: descriptor of 64 rows, b: of 2 N rows, all of DIM elements. 16 elements further
 * along a row are 32 bytes in its panel; 64 are the next panel, which begins after 64 rows of A, and 2 N rows of B.
 */
template <int DIM, int N, class T> INLINE void begin_scores(float (&s)[N], uint64_t a, uint64_t b, T)
{
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < DIM / 16; i++)
        wgmma_scores(s, a + i / 4 * (64 * 128 / 16) + i % 4 * 2, b + i / 4 * (2 * N * 128 / 16) + i % 4 * 2, i > 0, T());
    wgmma_commit();
}

/* Begin O = P V, or O += P V. weights: as pack_weights() leaves them;
   v: descriptor of 4 WORDS rows of 2 N elements: 16 are 2 KiB. */
template <int N, int WORDS, class T> INLINE void begin_values(float (&o)[N], uint32_t (&weights)[WORDS], uint64_t v, bool add, T)
{
    arrived(o);
    arrived(weights);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < WORDS / 4; i++)
        wgmma_values(o, weights + 4 * i, v + i * (16 * 128 / 16), i > 0 || add, T());
    wgmma_commit();
}

/* Wait for all products that have been begun; the last was of o and these weights. */
template <int N, int WORDS> INLINE void end_values(float (&o)[N], uint32_t (&weights)[WORDS])
{
    wgmma_wait<0>();
    arrived(o);
    arrived(weights);
}

/* The same of 64 queries and the n-th block of keys, and with the n-th block of values: from their places. place: that of the
   queries, where there is more than one from `queries` on. */
template <class C> INLINE void begin_scores(float (&s)[C::BC / 2], const typename C::T *queries, uint32_t n, uint32_t place = 0)
{
    uint64_t q = wgmma_descriptor(shared_address(queries), 0) + place * (WARPGROUP_ROWS * C::DIM * 2 / 16);
    uint64_t k = wgmma_descriptor(shared_address(shared<C>().k), 0) + n % C::STAGES * (C::BYTES / 16);
    begin_scores<C::DIM>(s, q, k, typename C::T());
}

template <class C> INLINE void begin_values(float (&o)[C::DIM / 2], uint32_t (&weights)[C::BC / 4], uint32_t n, bool add)
{
    uint64_t v = wgmma_descriptor(shared_address(shared<C>().v), C::BC * 128) + n % C::STAGES * (C::BYTES / 16);
    begin_values(o, weights, v, add, typename C::T());
}

/* ---- fragments: what a thread has of the 64 rows. wgmma.cuh says which: parts of two rows, h = 0 and 1, 8 below each other */

INLINE int lane(void) { return threadIdx.x % 32; }
INLINE int row_of_thread(void) { return threadIdx.x % 128 / 32 * 16 + lane() / 4; } /* in the warpgroup: that of h = 0 */

/* Scores that count for nothing: in row h, columns from visible[h] on. */
template <int N> INLINE void mask(float (&s)[N], int visible_0, int visible_1)
{
    int first = lane() % 4 * 2;
#pragma unroll
    for (int i = 0; i < N; i++)
        if (i / 4 * 8 + i % 2 >= (i / 2 % 2 ? visible_1 : visible_0) - first)
            s[i] = -INFINITY;
}

/* The same for the warpgroup's rows of the tile from first_row on, and the block of keys from `key` on. */
template <int N> INLINE void mask_block(float (&s)[N], const problem &p, int first_row, int warpgroup, int key)
{
    int row = first_row + WARPGROUP_ROWS * warpgroup + row_of_thread();
    mask(s, min(p.seq_k, row + p.more) - key, min(p.seq_k, row + 8 + p.more) - key);
}

/* The maximum of row h, over the four lanes that share it; -inf if there is none. */
template <int N> INLINE float row_maximum(const float (&s)[N], int h)
{
    float a = -INFINITY, b = -INFINITY; /* two chains */
#pragma unroll
    for (int i = 2 * h; i < N; i += 8) {
        a = fmaxf(a, fmaxf(s[i], s[i + 1]));
        b = fmaxf(b, fmaxf(s[i + 4], s[i + 5]));
    }
    return warp_max<4>(fmaxf(a, b));
}

/*
 * What the weights 2^(c s - m) of two rows refer to: m = c r, r being a score of each row. m is rounded, and c s is not, which
 * makes all weights of a row too large or too small together, and the quotient does not notice: so long as the rounding, 2^-24 m,
 * is small. Where it is not, and where a row has seen nothing yet (r = -inf, and -inf - -inf would be NaN), near() is false and
 * center() due: then s becomes s - r, and m 0. That is a subtraction more for each score, and rare.
 */
INLINE float2 scaled(float2 r, float c) { return make_float2(r.x * c, r.y * c); }
INLINE bool near(float m) { return fabsf(m) < FAR; }
INLINE bool near(float2 m) { return near(m.x) & near(m.y); }

template <int N> INLINE float2 center(float (&s)[N], float2 r, float c)
{
    float2 m = scaled(r, c), shift = make_float2(0.0f, 0.0f); /* rows that are near keep their bits */
    if (!near(m.x))
        shift.x = r.x == -INFINITY ? 0.0f : r.x, m.x = 0.0f;
    if (!near(m.y))
        shift.y = r.y == -INFINITY ? 0.0f : r.y, m.y = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++)
        s[i] -= i / 2 % 2 ? shift.y : shift.x;
    return m;
}

/* scaled(), or center() where that is due in any of the warp's rows. */
template <int N> INLINE float2 refer(float (&s)[N], float2 r, float c)
{
    float2 m = scaled(r, c);
    return __any_sync(ALL_LANES, !near(m)) ? center(s, r, c) : m;
}

/*
 * From step 29 on references lie in shared memory: m where each thread has its own, r where the four lanes of a row have one. m
 * is what a block takes; where a row is not near, it is NaN, and no block can overlook it. keep_reference() returns what the
 * exponents refer to, in a pair of registers: m, or what center() makes of it, where that is due in any of the warp's rows.
 */
template <class C> INLINE uint32_t m_of_thread(void) { return shared_address(&shared<C>().m[threadIdx.x]); }
template <class C> INLINE uint32_t r_of_row(void) { return shared_address(&shared<C>().r[threadIdx.x / 4]); }

template <class C> INLINE float2 keep_reference(float (&s)[C::BC / 2], float2 r, float c)
{
    float2 m = scaled(r, c);
    __syncwarp(); /* the four lanes have read what was there */
    store_pair_if(lane() % 4 == 0, r_of_row<C>(), r);
    __syncwarp();
    store_pair(m_of_thread<C>(), make_float2(near(m.x) ? m.x : NAN, near(m.y) ? m.y : NAN));
    m = load_pair(m_of_thread<C>());
    return __any_sync(ALL_LANES, !near(m)) ? center(s, r, c) : m;
}

/* What l and O are to be multiplied by when they referred to `old` and
   are to refer to r, which is not below it. 1 where it has stayed. */
INLINE float2 factors(float2 old, float2 r, float c)
{
    return make_float2(r.x > old.x ? ex2((old.x - r.x) * c) : 1.0f, r.y > old.y ? ex2((old.y - r.y) * c) : 1.0f);
}

/* s = 2^(c s - m) for eights of columns from FROM to TO, added to sum[h]. m: of both rows. */
template <int FROM, int TO, int N> INLINE void exponentials(float (&s)[N], float2 m, float c, float (&sum)[2])
{
#pragma unroll
    for (int i = 4 * FROM; i < 4 * TO; i += 4) {
        s[i] = ex2(fmaf(s[i], c, -m.x)), s[i + 1] = ex2(fmaf(s[i + 1], c, -m.x));
        s[i + 2] = ex2(fmaf(s[i + 2], c, -m.y)), s[i + 3] = ex2(fmaf(s[i + 3], c, -m.y));
        sum[0] += s[i], sum[1] += s[i + 2];
        sum[0] += s[i + 1], sum[1] += s[i + 3];
    }
}

template <int N> INLINE void rescale(float (&o)[N], float2 factor)
{
#pragma unroll
    for (int i = 0; i < N; i++)
        o[i] *= i / 2 % 2 ? factor.y : factor.x;
}

/* Let the rows refer to their maximum where it exceeds what they refer to, r, by too much: by LAG, times c. l and O follow. */
template <int N, int M> INLINE void follow(float (&o)[N], float (&l)[2], float2 &r, const float (&s)[M], float c)
{
    float2 old = r, above = make_float2(row_maximum(s, 0), row_maximum(s, 1));
    bool exceeded[2] = { (above.x - old.x) * c > LAG, (above.y - old.y) * c > LAG };
    if (!__any_sync(ALL_LANES, exceeded[0] || exceeded[1]))
        return;
    r = make_float2(exceeded[0] ? above.x : old.x, exceeded[1] ? above.y : old.y);
    float2 factor = factors(old, r, c);
    l[0] *= factor.x, l[1] *= factor.y;
    rescale(o, factor);
}

/*
 * Branches that are never taken: v is a sum of exponentials, and not negative. They keep in its place what was computed for v.
 * The assembler of PTX sinks ordinary instructions below a wait for products, even all of a softmax that should run beside them;
 * it cannot move what a branch depends on. But it must not be able to prove that v >= 0, which it does of a sum of ex2() alone:
 * v needs a part that comes from further away, as the sums of the blocks before do.
 */
INLINE void stay_above(float v)
{
    if (v < 0.0f)
        __trap();
}

/* end_values() below all that v depends on: without a trap, which has its price in a loop, and with the wait in both arms. */
template <int N, int WORDS> INLINE void end_values_below(float v, float (&o)[N], uint32_t (&weights)[WORDS])
{
    if (__any_sync(ALL_LANES, v < 0.0f)) {
        end_values(o, weights);
        rescale(o, make_float2(0.0f, 0.0f));
    } else {
        end_values(o, weights);
    }
}

/* The fragment of P = S, in 16 bits: the registers are in order already. */
template <class T, int N> INLINE void pack_weights(uint32_t (&weights)[N / 2], const float (&s)[N], T)
{
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        weights[i] = word_of_floats(&s[2 * i], T());
}

/* The warp's 16 rows of one panel of O, to shared memory: 2 KiB at `box`, swizzled as tma_store() expects it. */
template <int N, class T> INLINE void fill_box(uint32_t box, const float (&o)[N], int panel, T)
{
    uint32_t row = lane() % 16;
#pragma unroll
    /* two chunks of 8 columns: lanes 0 to 15 bring the rows of one, the others those of the next */
    for (int i = 0; i < 8; i += 2) {
        uint32_t words[4];
        for (int j = 0; j < 4; j++)
            words[j] = word_of_floats(&o[PANEL / 2 * panel + 4 * i + 2 * j], T());
        stmatrix(box + row * 128 + ((i + lane() / 16) ^ row % 8) * 16, words);
    }
    fence_async_shared();
    __syncwarp();
}

/* What divides O, and the lse, of the sums l in a thread, and the references m = c r. No weight at all: 0 and -inf. */
INLINE float2 finish_rows(float *lse, int rows_left, float2 l, float2 m)
{
    l = make_float2(warp_sum<4>(l.x), warp_sum<4>(l.y));
    if (lse && lane() % 4 == 0) {
        if (0 < rows_left)
            lse[0] = l.x == 0.0f ? -INFINITY : m.x * LN2 + __logf(l.x);
        if (8 < rows_left)
            lse[8] = l.y == 0.0f ? -INFINITY : m.y * LN2 + __logf(l.y);
    }
    return make_float2(l.x == 0.0f ? 0.0f : 1.0f / l.x, l.y == 0.0f ? 0.0f : 1.0f / l.y);
}

/*
 * The warp's 16 rows of O leave through its boxes, one a panel, `step` bytes apart. Whoever needs the boxes for something else
 * waits for the stores: tma_store_wait_read().
 */
template <int N, class T>
INLINE void store_rows(const float (&o)[N], const problem &p, uint32_t box, int step, int row, int head, T)
{
#pragma unroll
    for (int panel = 0; panel < 2 * N / PANEL; panel++, box += step) {
        if (lane() == 0)
            tma_store_wait_read<2 * N / PANEL - 1>(); /* what was in this box before has left */
        __syncwarp();
        fill_box(box, o, panel, T());
        if (lane() == 0)
            tma_store(&p.map.o, box, row, panel, head);
    }
}

/*
 * What a warpgroup leaves of a tile, when all is in o, l and m = c r: O / l, and the lse. O leaves through the place of the
 * warp's queries, 16 rows of each panel, which nobody needs any more.
 */
template <class C>
INLINE void store(float (&o)[C::DIM / 2], const float (&l)[2], float2 m, const problem &p, struct tile t, int warpgroup)
{
    int row = t.first_row + WARPGROUP_ROWS * warpgroup + row_of_thread();
    float *lse = p.lse ? p.lse + (int64_t)t.head * p.seq_q + row : NULL;
    rescale(o, finish_rows(lse, p.seq_q - row, make_float2(l[0], l[1]), m));
    named_barrier(1 + warpgroup, 128); /* all its products with Q are done */
    uint32_t box = shared_address(shared<C>().q[warpgroup]) + threadIdx.x % 128 / 32 * 16 * 128;
    store_rows(o, p, box, WARPGROUP_ROWS * 128, row, t.head, typename C::T());
    if (lane() == 0)
        tma_store_wait_read<0>(); /* shared memory must last until the boxes have been read */
}

#endif

/*
 * Step 55, staged backward: step 54, with copies that travel while others multiply, and dQ a step late. Needs sm_80.
 *
 * Tiles of Q and dO, and of dS, have STAGES places. While one is multiplied, the next is on its way: the warps that own dV copy
 * it. All warps compute dQ, a step later: so a tile of dS has the time of a step to become complete, and one barrier a step is
 * enough, at which a tile has arrived, and dS of the one before is there.
 *
 * A tile has 64 queries, for as much work between two barriers; scores of BR of them are in registers at a time. Where a block
 * cannot have so much shared memory there is a small shape of it.
 *
 * Changed since step 54: these; and a warp's part of dQ is 32 x 32 at heads of 64, too: a fragment loaded serves two products.
 */
#include "gpu.cuh"
#include "ptx.cuh"
#include "steps.h"

#define THREADS 256                     /* of a block of the small kernels */
#define STAGES 2                        /* tiles of Q and dO, and of dS, with a place in shared memory */
#define MAX_GRID_Y INT64_C(65535)       /* blocks in a grid's second dimension: the hardware's limit */
#define QUERIES 64                      /* of a head there is a multiple of so many in dQ's sums: the most of a tile */
#define FRAGMENT 128                    /* elements of a 16 x 8 fragment of dQ */
#define QUARTER 128                     /* bytes of 8 x 8 elements of dS: lane 4g + t has the word 4g + t */

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && CUDART_VERSION >= 12010
#define ADDS_FOUR 1                     /* one instruction adds four neighbours to memory */
#else
#define ADDS_FOUR 0
#endif

enum { OF_WEIGHTS, OF_CHANGES };        /* a warp's line: S, P and dV; or dP, dS and dK */

/* What a block is, for heads of DIM, with so many warps and queries. A pair of warps has as many keys as its registers hold. */
template <int DIM_, int WARPS_, int TILE_> struct config {
    static constexpr int DIM = DIM_, WARPS = WARPS_, TILE = TILE_;
    static constexpr int KEYS = 4096 / DIM, PARTS = KEYS / 16; /* of a pair; of 16 keys each */
    static constexpr int PAIRS = WARPS / 2, BC = KEYS * PAIRS;
    static constexpr int APART = WARPS == 8 ? 4 : 1;           /* warps of a pair, so that each quarter of an SM has both kinds */
    static constexpr int BR = TILE < 128 / PARTS ? TILE : 128 / PARTS; /* queries whose scores are in registers at a time */
    static constexpr int ROW = DIM * 2, K_TILE = BC * ROW, Q_TILE = TILE * ROW; /* bytes of a row of K or Q, and of tiles */
    static constexpr int ACROSS = TILE / 8, CHANGES = BC / 8 * ACROSS * QUARTER;    /* quarters of dS^T side by side; bytes */
    static constexpr int BLOCKS = WARPS == 8 ? 1 : 2; /* on an SM */
    static constexpr int SHARED = 2 * K_TILE + STAGES * (2 * Q_TILE + CHANGES + TILE * (int)sizeof(float2));
};

/* ---- before: D and the like, and sums of 0 */

/*
 * rows: a query's lse, times log2(e), and its sum of dO O, less its dlse where there is one. sums: DIM zeros each. Of a head
 * there are `padded` queries: those that do not exist, and those that see no key, get an lse of infinity: all weights are 0.
 */
template <class T, int DIM> static __global__ void __launch_bounds__(THREADS)
    prepare_kernel(float2 *rows, float *sums, const T *O, const float *lse, const T *dO, const float *dlse, int64_t seq_q,
                   int64_t padded)
{
    constexpr int LANES = DIM / 8; /* that have a query: a pack each */
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / LANES, head = row / padded, query = row % padded;
    int lane = threadIdx.x % LANES;
    bool there = query < seq_q;
    int64_t at = head * seq_q + query;
    float sum = 0.0f, o[8] = {}, change[8] = {};
    if (there) {
        unpack(o, load_once(O + at * DIM + lane * 8));
        unpack(change, load_once(dO + at * DIM + lane * 8));
    }
    for (int i = 0; i < 8; i++)
        sum += o[i] * change[i];
    sum = warp_sum<LANES>(sum);
    for (int i = 0; i < 2; i++)
        ((float4 *)(sums + row * DIM))[2 * lane + i] = make_float4(0, 0, 0, 0);
    if (lane == 0) {
        bool blind = !there || lse[at] == -INFINITY;
        rows[row] = make_float2(blind ? INFINITY : lse[at] * LOG2E, there ? sum - (dlse ? dlse[at] : 0.0f) : 0.0f);
    }
}

/* ---- the kernel */

/*
 * Where chunk `chunk` of row `row` of a tile lies, in bytes. To go k times 16 elements, 2 k chunks, further in a row is to flip
 * bits of the address, too: address ^ 32 * k.
 */
template <class C> static __device__ uint32_t swizzled(int row, int chunk)
{
    return row * C::ROW + (chunk ^ row % 8) * 16;
}

/*
 * Begin to copy a tile, (N, DIM), this being one of COPIERS threads. Rows from `there` on become zeros. (A thread may have
 * every fourth row, and the swizzle repeats after eight.)
 */
template <class C, class T, int N, int COPIERS>
static __device__ void copy_tile(uint32_t to, const T *from, int there, int thread)
{
    constexpr int CHUNKS = C::DIM / 8, STEP = COPIERS / CHUNKS;
    int first = thread / CHUNKS, chunk = thread % CHUNKS;
    to += swizzled<C>(first, chunk), from += first * C::DIM + chunk * 8, there -= first;
    for (int row = 0; row < N; row += STEP)
        cp_async((to ^ row % 8 * 16) + row * C::ROW, from + row * C::DIM, row < there);
}

/* A tile of queries: of which head, and which one there. */
struct place {
    int64_t head;
    int tile;
};

/* The next one: after the last of a head, the `first` of the next head. */
static __device__ void advance(struct place *at, int first, int tiles)
{
    if (++at->tile == tiles)
        at->tile = first, at->head++;
}

/* Begin to copy a tile of Q and one of dO, and what prepare_kernel() made of its queries: by half of the threads. */
template <class C, class T>
static __device__ void copy_queries(uint32_t to, uint32_t rows_to, const T *Q, const T *dO, const float2 *rows, struct place at,
                                    int seq_q, int tiles, int thread)
{
    const int first = at.tile * C::TILE;
    const int64_t from = (at.head * seq_q + first) * C::DIM;
    copy_tile<C, T, C::TILE, 16 * C::WARPS>(to, Q + from, seq_q - first, thread);
    copy_tile<C, T, C::TILE, 16 * C::WARPS>(to + C::Q_TILE, dO + from, seq_q - first, thread);
    if (thread < C::TILE / 2) /* two queries are 16 bytes */
        cp_async(rows_to + 16 * thread, rows + (at.head * tiles + at.tile) * C::TILE + 2 * thread, true);
}

/* The sums of a pair's line, dV or dK, and a slice of its scores, or of their changes: fragments of 16 x 8. */
template <class C> struct keys {
    float sum[C::PARTS][C::DIM / 8][4];
    float s[C::PARTS][C::BR / 8][4];
    uint32_t w[C::PARTS][C::BR / 16][4]; /* P or dS, rounded: fragments of 16 x 16 */
};

/* s = a b^T: 16 M rows of K, or V, times 8 N rows of Q, or dO. a_at, b_at: what the lane passes to the first ldmatrix. */
template <class C, class T, int M, int N> static __device__ void multiply(float (&s)[M][N][4], uint32_t a_at, uint32_t b_at)
{
#pragma unroll
    for (int i = 0; i < 4 * M * N; i++)
        ((float *)s)[i] = 0.0f;
#pragma unroll
    for (int k = 0; k < C::DIM / 16; k++) {
        uint32_t a[M][4];
        for (int part = 0; part < M; part++)
            ldmatrix(a[part], (a_at ^ 32 * k) + 16 * C::ROW * part);
        for (int n = 0; n < N / 2; n++) {
            uint32_t b[4]; /* two quarters for 8 queries, two for the next 8 */
            ldmatrix(b, (b_at ^ 32 * k) + 16 * C::ROW * n);
            for (int part = 0; part < M; part++) {
                mma(s[part][2 * n], a[part], b[0], b[1], T());
                mma(s[part][2 * n + 1], a[part], b[2], b[3], T());
            }
        }
    }
}

/* sum += w b: what is in w times BR rows of dO, or Q. */
template <class C, class T>
static __device__ void add(float (*sum)[C::DIM / 8][4], const uint32_t (*w)[C::BR / 16][4], uint32_t b_at)
{
#pragma unroll
    for (int k = 0; k < C::BR / 16; k++) {
        for (int n = 0; n < C::DIM / 16; n++) {
            uint32_t b[4]; /* two quarters for 8 columns, two for the next 8 */
            ldmatrix_trans(b, (b_at ^ 32 * n) + 16 * C::ROW * k);
            for (int part = 0; part < C::PARTS; part++) {
                mma(sum[part][2 * n], w[part][k], b[0], b[1], T());
                mma(sum[part][2 * n + 1], w[part][k], b[2], b[3], T());
            }
        }
    }
}

/* Weights of keys that a query does not see are 0: rows from `visible` on, of the lane's first column; one more each `slope`. */
template <class C> static __device__ void mask(struct keys<C> *me, int visible, int slope)
{
    for (int part = 0; part < C::PARTS; part++)
        for (int n = 0; n < C::BR / 8; n++)
            for (int i = 0; i < 4; i++)
                if (16 * part + i / 2 * 8 >= visible + slope * (8 * n + i % 2))
                    me->s[part][n][i] = 0.0f;
}

/* s becomes P = 2^(c s - lse). rows: from the lane's first query of the slice on. */
template <class C> static __device__ void weigh(struct keys<C> *me, const float2 *rows, float c)
{
#pragma unroll
    for (int n = 0; n < C::BR / 8; n++) {
        float4 two = *(const float4 *)&rows[8 * n];
        for (int part = 0; part < C::PARTS; part++)
            for (int i = 0; i < 4; i++)
                me->s[part][n][i] = ex2(me->s[part][n][i] * c - (i % 2 ? two.z : two.x));
    }
}

/* The lane's words of P or dS, of which each holds two queries of a key: to w, and to where `words` points, its first one. */
template <class C, class T> static __device__ void hand_over(struct keys<C> *me, uint32_t *words)
{
#pragma unroll
    for (int part = 0; part < C::PARTS; part++)
        for (int n = 0; n < C::BR / 8; n++)
            for (int h = 0; h < 2; h++) {
                uint32_t word = word_of_floats(&me->s[part][n][2 * h], T());
                me->w[part][n / 2][n % 2 * 2 + h] = word;
                words[((2 * part + h) * C::ACROSS + n) * (QUARTER / 4)] = word;
            }
}

/* w: the words of P that the same lane of another warp has left. */
template <class C> static __device__ void take_over(struct keys<C> *me, const uint32_t *words)
{
#pragma unroll
    for (int part = 0; part < C::PARTS; part++)
        for (int n = 0; n < C::BR / 8; n++)
            for (int h = 0; h < 2; h++)
                me->w[part][n / 2][n % 2 * 2 + h] = words[((2 * part + h) * C::ACROSS + n) * (QUARTER / 4)];
}

/* s, which is dP, becomes dS = P (dP - D), with the P that is in w. rows: from the lane's first query of the slice on. */
template <class C, class T> static __device__ void differentiate(struct keys<C> *me, const float2 *rows)
{
#pragma unroll
    for (int n = 0; n < C::BR / 8; n++) {
        float4 two = *(const float4 *)&rows[8 * n];
        for (int part = 0; part < C::PARTS; part++)
            for (int h = 0; h < 2; h++) {
                float P[2], *s = &me->s[part][n][2 * h];
                word_to_floats(P, me->w[part][n / 2][n % 2 * 2 + h], T());
                s[0] = P[0] * (s[0] - two.y);
                s[1] = P[1] * (s[1] - two.w);
            }
    }
}

/*
 * Add a warp's fragment to sums in memory. A lane's four are neighbours there where they can be added by one instruction; where
 * they cannot, each is beside the next lane's. Either way a warp adds whole sectors.
 */
static __device__ void add_fragment(float *sums, const float *c)
{
    int lane = threadIdx.x % 32;
#if ADDS_FOUR
    atomicAdd((float4 *)sums + lane, make_float4(c[0], c[1], c[2], c[3]));
#else
    for (int i = 0; i < 4; i++)
        atomicAdd(sums + 32 * i + lane, c[i]);
#endif
}

/* Eight neighbours in rows g and g + 8 of a fragment of sums: what lanes 4g to 4g + 3 have added. */
static __device__ void load_rows(float (*v)[8], const float *sums, int g)
{
    float x[4][4];
    for (int i = 0; i < 4; i++)
        *(float4 *)x[i] = __ldcs((const float4 *)(sums + (ADDS_FOUR ? 16 * g + 4 * i : 32 * i + 4 * g)));
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 8; i++)
            v[h][i] = ADDS_FOUR ? x[i / 2][2 * h + i % 2] : x[2 * h + i % 2][i / 2];
}

/* A warp's part of dS K, 32 dims wide, is added to the tile's sums. changes_at, k_at: what the lane passes to ldmatrix first. */
template <class C, class T> static __device__ void add_to_queries(float *sums, uint32_t changes_at, uint32_t k_at)
{
    constexpr int ACROSS = C::DIM / 32, M = C::TILE / 16 * ACROSS / C::WARPS; /* warps beside each other; times 16 queries */
    int warp = threadIdx.x / 32, down = warp / ACROSS, across = warp % ACROSS;
    float q[M][4][4] = {};
    changes_at += 2 * M * QUARTER * down, k_at ^= 64 * across;
#pragma unroll
    for (int k = 0; k < C::BC / 16; k++) {
        uint32_t a[M][4], b[2][4];
        for (int m = 0; m < M; m++)
            ldmatrix_trans(a[m], changes_at + (2 * C::ACROSS * k + 2 * m) * QUARTER);
        for (int n = 0; n < 2; n++)
            ldmatrix_trans(b[n], (k_at ^ 32 * n) + 16 * C::ROW * k);
        for (int m = 0; m < M; m++)
            for (int n = 0; n < 4; n++)
                mma(q[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1], T());
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < 4; n++)
            add_fragment(&sums[((M * down + m) * (C::DIM / 8) + 4 * across + n) * FRAGMENT], q[m][n]);
}

/* to: (there, DIM): the pair's rows of dV or dK, times `scale`. */
template <class C, class T> static __device__ void store(T *to, const float (*sum)[C::DIM / 8][4], int there, float scale)
{
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int part = 0; part < C::PARTS; part++)
        for (int h = 0; h < 2; h++) {
            int row = 16 * part + 8 * h + g;
            if (row < there)
                for (int n = 0; n < C::DIM / 8; n++) {
                    float two[2] = { sum[part][n][2 * h] * scale, sum[part][n][2 * h + 1] * scale };
                    *(uint32_t *)(to + row * C::DIM + 8 * n + 2 * t) = word_of_floats(two, T());
                }
        }
}

/*
 * As attention_backward_fp16_gpu_fn in types.h, for p.dim == DIM, tensors aligned to 16 bytes, heads of K and V from first_head
 * on. sums, rows: as prepare_kernel left them, for tiles of TILE queries. c: scale log2(e); group: attention_group(p).
 */
template <class C, class T> static __global__ void __launch_bounds__(32 * C::WARPS, C::BLOCKS)
    staged_backward_kernel(float *sums, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *dO, const float2 *rows,
                           struct attention p, float c, unsigned first_head, unsigned group)
{
    needs_sm_80();
    constexpr int TILE = C::TILE, DIM = C::DIM;
    extern __shared__ __align__(256) unsigned char k_tile[]; /* then V; STAGES of Q and dO, of dS^T, and of rows */
    unsigned char *changes = k_tile + 2 * C::K_TILE + STAGES * 2 * C::Q_TILE;
    float2 *row_tile = (float2 *)(changes + STAGES * C::CHANGES);
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;
    const int kind = warp / C::APART % 2, pair = warp % C::APART + warp / (2 * C::APART) * C::APART;

    /* Which keys; and which queries see some of them: from a tile on, of each of the group's heads. */
    const int64_t kv = first_head + blockIdx.y;
    const int seq_q = (int)p.seq_q, seq_k = (int)p.seq_k, block_key = (int)blockIdx.x * C::BC;
    const int first_key = block_key + pair * C::KEYS;
    const int tiles = (seq_q + QUERIES - 1) / QUERIES * (QUERIES / TILE);
    const int first = p.causal ? max(0, block_key + seq_q - seq_k) / TILE : 0, steps = (tiles - first) * (int)group;
    const int slope = p.causal, limit = p.causal ? seq_k - seq_q + 1 : seq_k; /* query i sees the first limit + slope i keys */

    /* This lane's row for ldmatrix in 16 x 16. Quarters: below each other, then side by side; or the other way. */
    const uint32_t below = swizzled<C>(lane % 16, lane / 16), beside = swizzled<C>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    const uint32_t k_at = shared_address(k_tile), stages_at = k_at + 2 * C::K_TILE, rows_at = shared_address(row_tile);
    const uint32_t changes_at = shared_address(changes) + (lane / 16 * C::ACROSS + lane / 8 % 2) * QUARTER + lane % 8 * 16;
    const uint32_t a_at = k_at + (kind == OF_WEIGHTS ? 0 : C::K_TILE) + pair * C::KEYS * C::ROW + below; /* K or V */
    uint32_t *const words = (uint32_t *)(changes + pair * C::KEYS / 8 * C::ACROSS * QUARTER) + lane; /* the lane's of P and dS */

    keys<C> me = {};
    struct place next = { kv * group, first }, done = next; /* whose tiles were copied last; whose dQ comes next */
    const int64_t from = (kv * seq_k + block_key) * DIM;
    copy_tile<C, T, C::BC, 32 * C::WARPS>(k_at, K + from, seq_k - block_key, threadIdx.x);
    copy_tile<C, T, C::BC, 32 * C::WARPS>(k_at + C::K_TILE, V + from, seq_k - block_key, threadIdx.x);
    if (kind == OF_WEIGHTS)
        copy_queries<C, T>(stages_at, rows_at, Q, dO, rows, next, seq_q, tiles, pair * 32 + lane);

    /* Step j multiplies tile j, copies tile j + 1, and computes dQ of tile j - 1, for which there is one step more. */
    for (int step = 0; step <= steps; step++) {
        const int stage = step & 1, other = stage ^ 1, at = next.tile * TILE;
        cp_async_wait_all();
        __syncthreads(); /* this tile has arrived, the dS of the one before it is complete, and nobody reads what comes after */
        if (step + 1 < steps)
            advance(&next, first, tiles);
        float *to = sums + (done.head * tiles + done.tile) * TILE * DIM;
        if (step > 0 && kind == OF_CHANGES)
            add_to_queries<C, T>(to, changes_at + other * C::CHANGES, k_at + below);
        if (step < steps)
#pragma unroll 1
            for (int query = 0; query < TILE; query += C::BR) {
                const uint32_t q_at = stages_at + stage * 2 * C::Q_TILE + query * C::ROW, o_at = q_at + C::Q_TILE;
                const float2 *row = &row_tile[stage * TILE + query + 2 * t];
                uint32_t *word = words + (stage * C::CHANGES + query / 8 * QUARTER) / 4;
                const int barrier = 1 + pair + (query ? C::PAIRS : 0);
                multiply<C, T>(me.s, a_at, (kind == OF_WEIGHTS ? q_at : o_at) + beside);
                if (kind == OF_WEIGHTS) {
                    int visible = limit + slope * (at + query) - first_key; /* keys of the pair that the first query sees */
                    weigh(&me, row, c);
                    if (visible < C::KEYS)
                        mask(&me, visible + slope * 2 * t - g, slope);
                    hand_over<C, T>(&me, word);
                    barrier_arrive(barrier, 64);
                    if (query == 0 && step + 1 < steps)
                        copy_queries<C, T>(stages_at + other * 2 * C::Q_TILE, rows_at + other * TILE * sizeof(float2), Q, dO,
                                           rows, next, seq_q, tiles, pair * 32 + lane);
                } else {
                    barrier_wait(barrier, 64);
                    take_over(&me, word);
                    differentiate<C, T>(&me, row);
                    hand_over<C, T>(&me, word);
                }
                add<C, T>(me.sum, me.w, (kind == OF_WEIGHTS ? o_at : q_at) + below);
            }
        if (step > 0 && kind == OF_WEIGHTS)
            add_to_queries<C, T>(to, changes_at + other * C::CHANGES, k_at + below);
        if (step > 0)
            advance(&done, first, tiles);
    }
    int64_t row = kv * seq_k + first_key;
    store<C, T>((kind == OF_WEIGHTS ? dV : dK) + row * DIM, me.sum, seq_k - first_key, kind == OF_WEIGHTS ? 1.0f : p.scale);
}

/* ---- behind: dQ from its sums */

/* dQ = scale times the sums, (heads, padded, DIM) in fragments. A thread has eight columns of rows g and g + 8. */
template <class T, int DIM> static __global__ void __launch_bounds__(THREADS)
    convert_kernel(T *dQ, const float *sums, float scale, int64_t seq_q, int64_t padded)
{
    constexpr int CHUNKS = DIM / 8;
    int64_t thread = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = thread / CHUNKS / 8 * 16; /* of all heads */
    int chunk = (int)(thread % CHUNKS), g = (int)(thread / CHUNKS % 8);
    float v[2][8];
    load_rows(v, sums + (row / 16 * CHUNKS + chunk) * FRAGMENT, g);
    for (int h = 0; h < 2; h++) {
        int64_t query = row % padded + g + 8 * h;
        for (int i = 0; i < 8; i++)
            v[h][i] *= scale;
        if (query < seq_q)
            store_pack(dQ + (row / padded * seq_q + query) * DIM + 8 * chunk, make_pack<T>(v[h]));
    }
}

/* ---- launchers */

template <class C, class T> static void launch_kernel(float *sums, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *dO,
                                                      const float2 *rows, struct attention p, cudaStream_t stream)
{
    static_assert(C::PARTS * (C::DIM + C::BR) / 2 <= registers_of_thread(C::BLOCKS * 32 * C::WARPS),
                  "the sums and scores are more than a thread's registers");
    float c = scale_sign(p.scale) * exponent_scale(p.scale);
    cudaFuncSetAttribute(staged_backward_kernel<C, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::SHARED);
    for (int64_t head = 0; head < p.batch * p.kv_heads; head += MAX_GRID_Y) {
        dim3 blocks((unsigned)((p.seq_k + C::BC - 1) / C::BC), (unsigned)min(p.batch * p.kv_heads - head, MAX_GRID_Y));
        staged_backward_kernel<C, T><<<blocks, 32 * C::WARPS, C::SHARED, stream>>>(
            sums, dK, dV, Q, K, V, dO, rows, p, c, (unsigned)head, (unsigned)attention_group(p));
    }
}

template <class T, int DIM>
static void launch_for(T *dQ, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *O, const float *lse, const T *dO,
                       const float *dlse, struct attention p, void *workspace, cudaStream_t stream)
{
    using large = config<DIM, 4 * DIM / 64, QUERIES>;
    using small = config<DIM, 4, QUERIES * 64 / DIM>; /* where a block cannot have more than SHARED_SM_80 */
    static_assert(small::SHARED <= SHARED_SM_80, "more than a block's shared memory");
    int64_t padded = ceil_div(p.seq_q, QUERIES) * QUERIES, rows = p.batch * p.heads * padded;
    float *sums = (float *)workspace;
    float2 *row = (float2 *)(sums + rows * DIM);
    unsigned blocks = (unsigned)(rows * (DIM / 8) / THREADS);
    prepare_kernel<T, DIM><<<blocks, THREADS, 0, stream>>>(row, sums, O, lse, dO, dlse, p.seq_q, padded);
    if (large::SHARED <= most_shared())
        launch_kernel<large, T>(sums, dK, dV, Q, K, V, dO, row, p, stream);
    else
        launch_kernel<small, T>(sums, dK, dV, Q, K, V, dO, row, p, stream);
    convert_kernel<T, DIM><<<blocks / 2, THREADS, 0, stream>>>(dQ, sums, p.scale, p.seq_q, padded);
}

/* A float for each element of dQ, and two for each query. */
size_t staged_backward_workspace(struct attention p, enum dtype)
{
    return (size_t)(p.batch * p.heads * ceil_div(p.seq_q, QUERIES) * QUERIES) * ((size_t)p.dim + 2) * sizeof(float);
}

template <class T>
static void launch(T *dQ, T *dK, T *dV, const T *Q, const T *K, const T *V, const T *O, const float *lse, const T *dO,
                   const float *dlse, struct attention p, void *workspace, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, p) || !takes_16_bits(dO, dQ, dK, dV, p))
        return;
    if (p.dim == 64)
        launch_for<T, 64>(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
    else
        launch_for<T, 128>(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

void staged_backward_fp16_gpu(fp16 *dQ, fp16 *dK, fp16 *dV, const fp16 *Q, const fp16 *K, const fp16 *V, const fp16 *O,
                              const float *lse, const fp16 *dO, const float *dlse, struct attention p, void *workspace,
                              cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

void staged_backward_bf16_gpu(bf16 *dQ, bf16 *dK, bf16 *dV, const bf16 *Q, const bf16 *K, const bf16 *V, const bf16 *O,
                              const float *lse, const bf16 *dO, const float *dlse, struct attention p, void *workspace,
                              cudaStream_t stream)
{
    launch(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, workspace, stream);
}

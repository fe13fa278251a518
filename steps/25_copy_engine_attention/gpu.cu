/*
 * Step 25, copy engine attention: the copy engine works ahead, into a ring of places. Needs a Hopper GPU.
 *
 *     copies    one thread asks for a box of a tensor (TMA); its bytes arrive at a barrier (mbarrier) that counts them, swizzled
 *     a tile    lies in panels: 64 of its columns, 128 bytes a row, swizzled as in step 23; behind them the next 64
 *     places    a ring of them: full when the bytes have come, empty when all warps are through with them
 *
 * Products and softmax are step 23's. Tiles of keys are taken from the right to the left, so that those that need a mask come
 * first.
 *
 * Changed since step 24: two places of a kind, and a tile is asked for while the one before it is multiplied. Step 23's softmax,
 * as it was, is in lean.cuh.
 */
#include "hopper.cuh"
#include "lean.cuh"
#include "steps.h"

#define WARPS 4                    /* of a block */
#define PARTS 2                    /* of 16 query rows each, that a warp owns */
#define THREADS (32 * WARPS)

constexpr int BC = 64;             /* keys of a tile */

/* What a block is made of: config in hopper.cuh says what is what. */
template <int D> struct sizes {
    static constexpr int DIM = D, WARPGROUPS = WARPS * PARTS / 4, BC = ::BC, STAGES = 2;
};

/*
 * Where chunk `chunk` of row `row` of a tile lies, in bytes, as the copy engine leaves it: in panels of 64 columns and ROWS rows.
 */
template <int ROWS> static __device__ uint32_t swizzled(int row, int chunk)
{
    return chunk / 8 * ROWS * 128 + row * 128 + (chunk ^ row) % 8 * 16;
}

/* k times 16 elements further in a row: bits of the address are flipped, as in step 23; after four times comes the next panel. */
template <int ROWS> static __device__ uint32_t further(uint32_t at, int k)
{
    return (at ^ 32 * (k % 4)) + k / 4 * ROWS * 128;
}

template <class C> struct __align__(1024) memory {
    typename C::T q[C::WARPGROUPS][WARPGROUP_ROWS * C::DIM]; /* 64 queries each; at the end their results on the way out */
    typename C::T k[C::STAGES][C::BC * C::DIM], v[C::STAGES][C::BC * C::DIM];
    ring<1> queries[C::WARPGROUPS];
    ring<C::STAGES> keys, values;
};

/* The n-th tiles of keys and values, from `key` on. One thread asks, and waits until nobody reads what is in their places. */
template <class C> INLINE void load_tiles(const problem &p, uint32_t n, int kv_head, int key)
{
    memory<C> &shm = shared<C>();
    load(shm.keys, n, shm.k, C::BYTES, &p.map.k, key, kv_head, KEEP_IN_L2);
    load(shm.values, n, shm.v, C::BYTES, &p.map.v, key, kv_head, KEEP_IN_L2);
}

/*
 * s: PARTS times 16 x BC, zeros that become the warp's Q times K transposed. q_at, k_at: what the lane passes to the first
 * ldmatrix of each.
 */
template <class T, int DIM> static __device__ void scores(float (*s)[BC / 8][4], uint32_t q_at, uint32_t k_at)
{
    for (int k = 0; k < DIM / 16; k++) {
        uint32_t q[PARTS][4];
        for (int part = 0; part < PARTS; part++)
            ldmatrix(q[part], further<WARPGROUP_ROWS>(q_at, k) + 16 * 128 * part);
        for (int n = 0; n < BC / 16; n++) {
            uint32_t b[4]; /* two quarters for 8 keys, two for the next 8 */
            ldmatrix(b, further<BC>(k_at, k) + 16 * 128 * n);
            for (int part = 0; part < PARTS; part++) {
                mma(s[part][2 * n], q[part], b[0], b[1], T());
                mma(s[part][2 * n + 1], q[part], b[2], b[3], T());
            }
        }
    }
}

/* Scores that count for nothing: columns from `visible` on, counted from the lane's first. Row g + 8 sees `step` more than g. */
static __device__ void mask(float (*s)[4], int visible, int step)
{
    for (int n = 0; n < BC / 8; n++)
        for (int i = 0; i < 4; i++)
            if (8 * n + i % 2 >= visible + i / 2 * step)
                s[n][i] = -INFINITY;
}

/* o += P V, where P: PARTS times 16 x BC is what softmax() left in s. v_at: as q_at and k_at in scores(). */
template <class T, int DIM> static __device__ void add_values(struct rows<DIM> *r, float (*s)[BC / 8][4], uint32_t v_at)
{
    for (int k = 0; k < BC / 16; k++) {
        uint32_t weights[PARTS][4];
        for (int part = 0; part < PARTS; part++)
            for (int i = 0; i < 4; i++) /* four quarters of S are four quarters of P */
                weights[part][i] = word_of_floats(&s[part][2 * k + i / 2][i % 2 * 2], T());
        for (int n = 0; n < DIM / 16; n++) {
            uint32_t b[4]; /* two quarters for 8 columns, two for the next 8 */
            ldmatrix_trans(b, further<BC>(v_at, n) + 16 * 128 * k);
            for (int part = 0; part < PARTS; part++) {
                mma(r[part].o[2 * n], weights[part], b[0], b[1], T());
                mma(r[part].o[2 * n + 1], weights[part], b[2], b[3], T());
            }
        }
    }
}

/*
 * O: (there, DIM), lse: (there) or NULL: 16 rows, divided by their sums. No key at all: zeros and -inf. They go through `tile`,
 * where these rows of Q were: no other warp reads them.
 */
template <class T, int DIM> static __device__ void store(T *O, float *lse, struct rows<DIM> *r, unsigned char *tile, int there,
                                                         float scale)
{
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int h = 0; h < 2; h++) {
        int row = g + 8 * h;
        float l = r->l[h];
        l += __shfl_xor_sync(ALL_LANES, l, 1);
        l += __shfl_xor_sync(ALL_LANES, l, 2);
        float inverse = l == 0.0f ? 0.0f : __fdividef(1.0f, l); /* otherwise l >= 1 */
        for (int n = 0; n < DIM / 8; n++) {
            float two[2] = { r->o[n][2 * h] * inverse, r->o[n][2 * h + 1] * inverse };
            *(uint32_t *)&tile[swizzled<WARPGROUP_ROWS>(row, n) + 4 * t] = word_of_floats(two, T());
        }
        if (lse && t == 0 && row < there)
            lse[row] = l == 0.0f ? -INFINITY : r->m[h] * scale + logf(l);
    }
    __syncwarp();
    for (int i = lane; i < 16 * DIM / 8; i += 32) {
        int row = i / (DIM / 8), chunk = i % (DIM / 8);
        if (row < there)
            *(pack<T> *)&O[i * 8] = *(const pack<T> *)&tile[swizzled<WARPGROUP_ROWS>(row, chunk)];
    }
}

template <class C> INLINE void attend(typename C::T *O, const problem &p)
{
    typedef typename C::T T;
    constexpr int DIM = C::DIM;
    memory<C> &shm = shared<C>();
    const int lane = threadIdx.x % 32, g = lane / 4, warp = threadIdx.x / 32;
    const struct tile t = tile_of_block<C>(p);
    const int block_row = t.first_row, first_row = block_row + warp * 16 * PARTS + g;
    if (threadIdx.x == 0) {
        for (int i = 0; i < C::WARPGROUPS; i++)
            load(shm.queries[i], 0, shm.q[i], sizeof shm.q[i], &p.map.q, t.first_row + WARPGROUP_ROWS * i, t.head, READ_ONCE);
        load_tiles<C>(p, 0, t.kv_head, (t.blocks - 1) * C::BC);
    }
    struct rows<DIM> r[PARTS] = {};
    for (int part = 0; part < PARTS; part++)
        r[part].m[0] = r[part].m[1] = -INFINITY;

    /* This lane's row for ldmatrix in the first 16 x 16. Quarters: below each other, then side by side; in K the other way. */
    uint32_t q_at = shared_address(shm.q[warp / 2]), k_at = shared_address(shm.k), v_at = shared_address(shm.v);
    q_at += swizzled<WARPGROUP_ROWS>(warp % 2 * 16 * PARTS + lane % 16, lane / 16);
    k_at += swizzled<BC>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    v_at += swizzled<BC>(lane % 16, lane / 16);

    for (int i = 0; i < C::WARPGROUPS; i++) {
        wait_full(shm.queries[i], 0);
        if (p.sign != 1.0f)
            multiply_queries(shm.q[i], p.sign, 0);
    }
    for (int n = 0, key = (t.blocks - 1) * C::BC; key >= 0; n++, key -= C::BC) {
        const int stage = n % C::STAGES * C::BYTES;
        wait_full(shm.keys, n);
        wait_full(shm.values, n);
        if (threadIdx.x == 0 && key > 0)
            load_tiles<C>(p, n + 1, t.kv_head, key - C::BC);
        if (key < min(p.seq_k, first_row - g + 16 * PARTS - 1 + p.more)) { /* does the warp's last row see any of them? */
            float s[PARTS][BC / 8][4] = {};
            scores<T, DIM>(s, q_at, k_at + stage);
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                int row = first_row + 16 * part, visible = min(p.seq_k, row + p.more);
                if (key + BC > visible)
                    mask(s[part], visible - key - lane % 4 * 2, min(p.seq_k, row + 8 + p.more) - visible);
                softmax<BC>(&r[part], s[part], p.c);
            }
            add_values<T, DIM>(r, s, v_at + stage);
        }
        __syncwarp(); /* one lane speaks for all */
        if (lane == 0)
            release(shm.keys, n), release(shm.values, n);
    }

#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        int row = block_row + warp * 16 * PARTS + 16 * part;
        int64_t at = (int64_t)t.head * p.seq_q + row;
        unsigned char *tile = (unsigned char *)shm.q[warp / 2] + (warp % 2 * PARTS + part) * 16 * 128;
        store(O + at * DIM, p.lse ? p.lse + at : NULL, &r[part], tile, p.seq_q - row, p.c * LN2);
    }
}

template <class C> static __global__ void __launch_bounds__(THREADS, 2)
    copy_engine_attention_kernel(typename C::T *O, const __grid_constant__ struct problem p)
{
    needs_hopper();
    if (HOPPER) {
        begin_rings<C>(WARPS);
        attend<C>(O, p);
    }
}

/* ---- launching */

template <class T, int DIM> static void launch_for(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                                                   cudaStream_t stream)
{
    typedef config<T, sizes<DIM>> C;
    static_assert(2 * sizeof(memory<C>) <= SHARED_BYTES, "two blocks are more than an SM's shared memory");
    static_assert(PARTS * (DIM / 2 + BC / 2) <= registers_of_thread(2 * THREADS), "O and S are more than a thread's registers");
    struct problem of;
    if (!problem_of<C>(&of, O, lse, Q, K, V, p))
        return;
    cudaFuncSetAttribute(copy_engine_attention_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<C>));
    copy_engine_attention_kernel<C><<<of.tiles, THREADS, sizeof(memory<C>), stream>>>(O, of);
}

template <class T>
static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, p))
        return;
    if (p.dim == 64)
        launch_for<T, 64>(O, lse, Q, K, V, p, stream);
    else
        launch_for<T, 128>(O, lse, Q, K, V, p, stream);
}

void copy_engine_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p,
                                    void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

void copy_engine_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p,
                                    void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

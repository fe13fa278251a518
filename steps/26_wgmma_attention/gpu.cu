/*
 * Step 26, wgmma attention: tensor cores read tiles where the copy engine has put them. Needs a Hopper GPU.
 *
 *     products  128 threads, a warpgroup, multiply 64 rows (wgmma), from shared memory: no ldmatrix, no Q or K in registers
 *     P         stays in registers, as since step 18
 *
 * A block is one warpgroup.
 *
 * Changed since step 25: products. They wait for all warps, so that one thread lets a tile go for them all. Softmax is the same,
 * of one array of registers: hopper.cuh.
 */
#include "hopper.cuh"
#include "steps.h"

/* What a block is made of: config in hopper.cuh says what is what. */
struct dim_64  { static constexpr int DIM = 64,  WARPGROUPS = 1, BC = 64, STAGES = 2; };
struct dim_128 { static constexpr int DIM = 128, WARPGROUPS = 1, BC = 64, STAGES = 2; };

/* A thread's share of its warpgroup's rows. r: what o and l refer to, at most LAG / c below the maximum. */
template <int DIM> struct rows {
    float o[DIM / 2], l[2];
    float2 r;
};

/*
 * Where chunk `chunk` of row `row` of a tile lies, in bytes, as the copy engine leaves it: in panels of 64 columns and ROWS rows.
 */
template <int ROWS> static __device__ uint32_t swizzled(int row, int chunk)
{
    return chunk / 8 * ROWS * 128 + row * 128 + (chunk ^ row) % 8 * 16;
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
            float two[2] = { r->o[4 * n + 2 * h] * inverse, r->o[4 * n + 2 * h + 1] * inverse };
            *(uint32_t *)&tile[swizzled<WARPGROUP_ROWS>(row, n) + 4 * t] = word_of_floats(two, T());
        }
        if (lse && t == 0 && row < there)
            lse[row] = l == 0.0f ? -INFINITY : (h ? r->r.y : r->r.x) * scale + logf(l);
    }
    __syncwarp();
    for (int i = lane; i < 16 * DIM / 8; i += 32) {
        int row = i / (DIM / 8), chunk = i % (DIM / 8);
        if (row < there)
            *(pack<T> *)&O[i * 8] = *(const pack<T> *)&tile[swizzled<WARPGROUP_ROWS>(row, chunk)];
    }
}

/* ---- a block of the grid: a tile of queries */

template <class C> INLINE void attend(typename C::T *O, const problem &p)
{
    memory<C> &shm = shared<C>();
    const struct tile t = tile_of_block<C>(p);
    const int visible = min(p.seq_k, t.first_row + p.more); /* to the first row */
    if (threadIdx.x == 0) {
        for (int i = 0; i < C::WARPGROUPS; i++)
            load(shm.queries[i], 0, shm.q[i], sizeof shm.q[i], &p.map.q, t.first_row + WARPGROUP_ROWS * i, t.head, READ_ONCE);
        load_tiles<C>(p, 0, t.kv_head, (t.blocks - 1) * C::BC);
    }
    rows<C::DIM> me = {};
    me.r = make_float2(-INFINITY, -INFINITY);
    wait_full(shm.queries[0], 0);
    if (p.sign != 1.0f)
        multiply_queries(shm.q[0], p.sign, 0);
    for (int n = 0, key = (t.blocks - 1) * C::BC; key >= 0; n++, key -= C::BC) {
        float s[C::BC / 2];
        uint32_t weights[C::BC / 4];
        wait_full(shm.keys, n);
        begin_scores<C>(s, shm.q[0], n);
        if (threadIdx.x == 0 && key > 0)
            load_tiles<C>(p, n + 1, t.kv_head, key - C::BC);
        wgmma_wait<0>();
        arrived(s);
        release_together(shm.keys, n);
        if (key + C::BC > visible)
            mask_block(s, p, t.first_row, 0, key);
        follow(me.o, me.l, me.r, s, p.c);
        exponentials<0, C::BC / 8>(s, refer(s, me.r, p.c), p.c, me.l);
        pack_weights(weights, s, typename C::T());
        wait_full(shm.values, n);
        begin_values<C>(me.o, weights, n, true);
        end_values(me.o, weights);
        release_together(shm.values, n);
    }

    __syncthreads(); /* all products with Q are done */
    int row = t.first_row + threadIdx.x / 32 * 16;
    int64_t at = (int64_t)t.head * p.seq_q + row;
    unsigned char *tile = (unsigned char *)shm.q[0] + threadIdx.x / 32 * 16 * 128;
    store(O + at * C::DIM, p.lse ? p.lse + at : NULL, &me, tile, p.seq_q - row, p.c * LN2);
}

template <class C> static __global__ void __launch_bounds__(128 * C::WARPGROUPS, 2)
    wgmma_attention_kernel(typename C::T *O, const __grid_constant__ struct problem p)
{
    needs_hopper();
    if constexpr (HOPPER) {
        begin_rings<C>(1);
        attend<C>(O, p);
    }
}

/* ---- launching */

template <class C, class T> static void launch_for(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                                                  cudaStream_t stream)
{
    static_assert(2 * sizeof(memory<C>) <= SHARED_BYTES, "two blocks are more than an SM's shared memory");
    static_assert(C::FRAGMENTS <= registers_of_thread(2 * 128 * C::WARPGROUPS), "O and S are more than a thread's registers");
    struct problem of;
    if (!problem_of<C>(&of, O, lse, Q, K, V, p))
        return;
    cudaFuncSetAttribute(wgmma_attention_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<C>));
    wgmma_attention_kernel<C><<<of.tiles, 128 * C::WARPGROUPS, sizeof(memory<C>), stream>>>(O, of);
}

template <class T>
static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, p))
        return;
    if (p.dim == 64)
        launch_for<config<T, dim_64>>(O, lse, Q, K, V, p, stream);
    else
        launch_for<config<T, dim_128>>(O, lse, Q, K, V, p, stream);
}

void wgmma_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p,
                                  void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

void wgmma_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p,
                                  void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

/*
 * Step 27, warpgroup attention: several warpgroups share a tile: one multiplies, another exponentiates. Needs a Hopper GPU.
 *
 *     products  128 threads, a warpgroup, multiply 64 rows (wgmma), from shared memory: no ldmatrix, no Q or K in registers
 *     P         stays in registers, as since step 18
 *
 * A block is 3 or 4 warpgroups of 64 queries each. K and V of a block of keys arrive together, in one of STAGES places, and are
 * let go together.
 *
 * Changed since step 26: what a block is made of; tiles have one ring, for keys and values; O leaves by the copy engine, too.
 */
#include "hopper.cuh"
#include "steps.h"

/* What a block is made of: config in hopper.cuh says what is what. */
struct dim_64  { static constexpr int DIM = 64,  WARPGROUPS = 4, BC = 128, STAGES = 2; };
struct dim_128 { static constexpr int DIM = 128, WARPGROUPS = 3, BC = 128, STAGES = 2; };

/* A thread's share of its warpgroup's rows. r: what o and l refer to, at most LAG / c below the maximum. */
template <int DIM> struct rows {
    float o[DIM / 2], l[2];
    float2 r;
};

template <class C> struct __align__(1024) memory {
    typename C::T q[C::WARPGROUPS][WARPGROUP_ROWS * C::DIM]; /* 64 queries each; at the end their results on the way out */
    typename C::T k[C::STAGES][C::BC * C::DIM], v[C::STAGES][C::BC * C::DIM];
    ring<1> queries;
    ring<C::STAGES> tiles;         /* of keys and values, together */
};

/* ---- copies: thread 0 begins them */

template <class C> INLINE void load_queries(const problem &p, struct tile t)
{
    memory<C> &shm = shared<C>();
    uint32_t full = shared_address(&shm.queries.full[0]);
    mbarrier_arrive_expect(full, sizeof shm.q);
    for (int i = 0; i < C::WARPGROUPS; i++)
        tma_load(shared_address(shm.q[i]), &p.map.q, full, t.first_row + WARPGROUP_ROWS * i, 0, t.head, READ_ONCE);
}

/* The n-th tiles of keys and values, from `key` on. One thread asks, and waits until nobody reads what is in their places. */
template <class C> INLINE void load_tiles(const problem &p, uint32_t n, int kv_head, int key)
{
    memory<C> &shm = shared<C>();
    uint32_t full = shared_address(&shm.tiles.full[n % C::STAGES]);
    wait_empty(shm.tiles, n);
    mbarrier_arrive_expect(full, 2 * C::BYTES);
    tma_load(shared_address(shm.k[n % C::STAGES]), &p.map.k, full, key, 0, kv_head, KEEP_IN_L2);
    tma_load(shared_address(shm.v[n % C::STAGES]), &p.map.v, full, key, 0, kv_head, KEEP_IN_L2);
}

/* O leaves through the place of the warp's queries, 16 rows of each panel, which nobody needs any more. */
template <class C> INLINE void store(rows<C::DIM> &me, const problem &p, int head, int row, int warpgroup)
{
    float *lse = p.lse ? p.lse + (int64_t)head * p.seq_q + row : NULL;
    rescale(me.o, finish_rows(lse, p.seq_q - row, make_float2(me.l[0], me.l[1]), scaled(me.r, p.c)));
    named_barrier(1 + warpgroup, 128); /* of the warpgroup: all its products with Q are done */
    uint32_t box = shared_address(shared<C>().q[warpgroup]) + threadIdx.x % 128 / 32 * 16 * 128;
#pragma unroll
    for (int panel = 0; panel < C::DIM / PANEL; panel++, box += WARPGROUP_ROWS * 128) {
        fill_box(box, me.o, panel, typename C::T());
        if (lane() == 0)
            tma_store(&p.map.o, box, row, panel, head);
    }
    if (lane() == 0)
        tma_store_wait_read<0>(); /* shared memory must last until the boxes have been read */
}

/* ---- a block of the grid: a tile of queries */

template <class C> INLINE void attend(const problem &p)
{
    memory<C> &shm = shared<C>();
    const int warpgroup = uniform(threadIdx.x / 128);
    const struct tile t = tile_of_block<C>(p);
    const int row = t.first_row + WARPGROUP_ROWS * warpgroup + row_of_thread();
    const int visible = min(p.seq_k, t.first_row + WARPGROUP_ROWS * warpgroup + p.more); /* to the warpgroup's first row */
    if (threadIdx.x == 0) {
        load_queries<C>(p, t);
        load_tiles<C>(p, 0, t.kv_head, (t.blocks - 1) * C::BC);
    }
    const uint64_t q = wgmma_descriptor(uniform(shared_address(shm.q[warpgroup])), 0);
    const uint64_t k = wgmma_descriptor(shared_address(shm.k), 0), v = wgmma_descriptor(shared_address(shm.v), C::BC * 128);
    rows<C::DIM> me = {};
    me.r = make_float2(-INFINITY, -INFINITY);
    wait_full(shm.queries, 0);
    if (p.sign != 1.0f)
        multiply_queries(shm.q[warpgroup], p.sign, warpgroup);
    for (int n = 0; n < t.blocks; n++) {
        const int key = (t.blocks - 1 - n) * C::BC;
        float s[C::BC / 2];
        uint32_t weights[C::BC / 4];
        wait_full(shm.tiles, n);
        begin_scores<C::DIM>(s, q, k + n % C::STAGES * (C::BYTES / 16), typename C::T());
        if (threadIdx.x == 0 && n + 1 < t.blocks)
            load_tiles<C>(p, n + 1, t.kv_head, key - C::BC);
        wgmma_wait<0>();
        arrived(s);
        if (key + C::BC > visible)
            mask_block(s, p, t.first_row, warpgroup, key);
        follow(me.o, me.l, me.r, s, p.c);
        exponentials<0, C::BC / 8>(s, refer(s, me.r, p.c), p.c, me.l);
        pack_weights(weights, s, typename C::T());
        begin_values(me.o, weights, v + n % C::STAGES * (C::BYTES / 16), true, typename C::T());
        end_values(me.o, weights);
        release_together(shm.tiles, n);
    }
    store<C>(me, p, t.head, row, warpgroup);
}

template <class C> static __global__ void __launch_bounds__(128 * C::WARPGROUPS, 1)
    warpgroup_attention_kernel(const __grid_constant__ struct problem p)
{
    needs_hopper();
    if constexpr (HOPPER) {
        if (threadIdx.x == 0) {
            ring_init(shared<C>().queries, 1);
            ring_init(shared<C>().tiles, C::WARPGROUPS);
            mbarrier_init_fence();
        }
        __syncthreads();
        attend<C>(p);
    }
}

/* ---- launching */

template <class C, class T> static void launch_for(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention p,
                                                  cudaStream_t stream)
{
    static_assert(sizeof(memory<C>) <= SHARED_BYTES, "more than a block's shared memory");
    static_assert(C::FRAGMENTS <= registers_of_thread(128 * C::WARPGROUPS), "O and S are more than a thread's registers");
    struct problem of;
    if (!problem_of<C>(&of, O, lse, Q, K, V, p))
        return;
    cudaFuncSetAttribute(warpgroup_attention_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<C>));
    warpgroup_attention_kernel<C><<<of.tiles, 128 * C::WARPGROUPS, sizeof(memory<C>), stream>>>(of);
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

void warpgroup_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p,
                                  void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

void warpgroup_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p,
                                  void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

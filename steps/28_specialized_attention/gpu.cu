/*
 * Step 28, specialized attention: some warps copy, others compute. Needs a Hopper GPU.
 *
 *     producers    three threads of a warpgroup of their own load K, V and Q, as far ahead as there are places. The
 *                  warpgroup hands its registers to the consumers
 *     consumers    3 warpgroups, of 64 queries each, that do what those of step 27 did, and ask for nothing
 *
 * Changed since step 27: two kinds of warps; K and V arrive, and are let go, separately.
 */
#include "hopper.cuh"
#include "lean.cuh"
#include "steps.h"
#include "timeline.cuh"

/* What a block is made of: config in hopper.cuh says what is what. */
struct dim_64  { static constexpr int DIM = 64,  WARPGROUPS = 3, BC = 128, STAGES = 4, REGISTERS = 160; };
struct dim_128 { static constexpr int DIM = 128, WARPGROUPS = 3, BC = 128, STAGES = 2, REGISTERS = 160; };

template <class C> struct __align__(1024) memory {
    typename C::T q[C::WARPGROUPS][WARPGROUP_ROWS * C::DIM]; /* 64 queries each; at the end their results on the way out */
    typename C::T k[C::STAGES][C::BC * C::DIM], v[C::STAGES][C::BC * C::DIM];
    ring<1> queries[C::WARPGROUPS];
    ring<C::STAGES> keys, values;
};

/* What a consumer thread has in registers. */
template <class C> struct consumer {
    int warpgroup;
    struct tile tile;
    uint32_t keys, values;          /* blocks of K, and blocks of V, that are behind it */
    int block, masked_from;         /* the block it is at; blocks from masked_from on need a mask */
    struct rows<C::DIM> rows;
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

/* ---- consumers */

template <class C> INLINE void next_block(consumer<C> &me, const problem &p)
{
    memory<C> &shm = shared<C>();
    float s[C::BC / 2];
    uint32_t weights[C::BC / 4];
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
    softmax<C::BC>(&me.rows, (float (*)[4])s, p.c);
    pack_weights(weights, s, typename C::T());
    mark(DID_SOFTMAX, me.keys - 1);
    wait_full(shm.values, me.values);
    begin_values<C>(registers(me.rows.o), weights, me.values, true);
    end_values(registers(me.rows.o), weights);
    mark(GOT_VALUES, me.keys - 1);
    release_together(shm.values, me.values++);
}

template <class C> INLINE void consume(const problem &p, int warpgroup)
{
    memory<C> &shm = shared<C>();
    consumer<C> me = { warpgroup, tile_of_block<C>(p) };
    me.masked_from = max(0, min(p.seq_k, me.tile.first_row + WARPGROUP_ROWS * warpgroup + p.more)) / C::BC;
    me.block = me.tile.blocks - 1;
    me.rows.m[0] = me.rows.m[1] = -INFINITY;
    wait_full(shm.queries[me.warpgroup], 0);
    if (p.sign != 1.0f)
        multiply_queries(shm.q[me.warpgroup], p.sign, me.warpgroup);
#pragma unroll 1
    for (; me.block >= 0; me.block--)
        next_block(me, p);
    store<C>(registers(me.rows.o), me.rows.l, make_float2(me.rows.m[0] * p.c, me.rows.m[1] * p.c), p, me.tile, warpgroup);
}

template <class C> static __global__ void __launch_bounds__(128 * (C::WARPGROUPS + 1), 1)
    specialized_attention_kernel(const __grid_constant__ struct problem p)
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
    static_assert(C::FRAGMENTS <= C::REGISTERS, "O and S are more than a consumer's registers");
    static_assert(C::PRODUCER_REGISTERS >= 24, "too few registers are left to a producer");
    struct problem of;
    if (!problem_of<C>(&of, O, lse, Q, K, V, p))
        return;
    cudaFuncSetAttribute(specialized_attention_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<C>));
    timeline_at_exit();
    specialized_attention_kernel<C><<<of.tiles, 128 * (C::WARPGROUPS + 1), sizeof(memory<C>), stream>>>(of);
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

void specialized_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p,
                                    void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

void specialized_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p,
                                    void *, cudaStream_t stream)
{
    launch(O, lse, Q, K, V, p, stream);
}

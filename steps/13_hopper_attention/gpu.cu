/*
 * Step 13, Hopper attention: the copy engine copies tiles, and tensor cores read them where they are. Needs sm_90a.
 *
 *     copies      one thread asks for a box of a tensor (TMA); its bytes arrive at a barrier (mbarrier) that counts them, swizzled
 *     products    128 threads, a warpgroup, multiply 64 rows at once (wgmma), from shared memory: no ldmatrix, no fragments of Q and K
 *     P           stays in registers, as since step 11
 *
 * A block is 3 or 4 warpgroups of 64 queries each. K and V of a block of keys arrive together, in one of STAGES places, and are let go
 * together.
 *
 * Changed since step 12: copies and products. Softmax is step 12's; keys are taken from the right to the left.
 */
#include "hopper.cuh"
#include "steps.h"

#define LAG 8.0f           /* log2 of how far exp(scores) may exceed exp(m), as in step 12 */
#define STAGES 2           /* places for blocks of K and V */

/* What a block is made of. A tile is WGS times ROWS queries; its keys come in blocks of BC. */
template <class ELEMENT, int HEAD_DIM, int WARPGROUPS, int KEYS> struct shape {
    typedef ELEMENT T;
    static constexpr int DIM = HEAD_DIM, WGS = WARPGROUPS, BR = ROWS * WGS, BC = KEYS;
    static constexpr int BYTES = BC * DIM * 2; /* of a block of keys */
};

struct problem {
    CUtensorMap q, k, v, o;
    float *lse;
    int seq_q, seq_k, heads, kv_heads;
    int row_tiles;          /* of a head */
    int more;               /* query i sees the keys below i + more, and below seq_k */
    float c, sign;          /* |scale| log2(e), and what the queries are to be multiplied by: -1, 0 or 1 */
};

template <class S> struct __align__(1024) memory {
    typename S::T q[S::WGS][ROWS * S::DIM];         /* a warpgroup's queries; at the end its results on their way out */
    typename S::T k[STAGES][S::BC * S::DIM], v[STAGES][S::BC * S::DIM];
    ring<1> queries;
    ring<STAGES> blocks;                            /* of keys and values */
};

template <class S> INLINE memory<S> &shared(void)
{
    extern __shared__ __align__(1024) unsigned char bytes[];
    return *(memory<S> *)bytes;
}

/* ---- copies: thread 0 begins them */

template <class S> INLINE void load_queries(const problem &p, int head, int first_row)
{
    memory<S> &m = shared<S>();
    uint32_t full = shared_address(&m.queries.full[0]);
    mbarrier_arrive_expect(full, sizeof m.q);
    for (int i = 0; i < S::WGS; i++)
        tma_load(shared_address(m.q[i]), &p.q, full, first_row + ROWS * i, 0, head, READ_ONCE);
}

/* The n-th block: keys from first_key on. Waits until all warpgroups are through with what was in its place. */
template <class S> INLINE void load_block(const problem &p, uint32_t n, int kv_head, int first_key)
{
    memory<S> &m = shared<S>();
    uint32_t full = shared_address(&m.blocks.full[n % STAGES]);
    wait_empty(m.blocks, n);
    mbarrier_arrive_expect(full, 2 * S::BYTES);
    tma_load(shared_address(m.k[n % STAGES]), &p.k, full, first_key, 0, kv_head, KEEP_IN_L2);
    tma_load(shared_address(m.v[n % STAGES]), &p.v, full, first_key, 0, kv_head, KEEP_IN_L2);
}

/* ---- softmax */

/* A thread's share of its warpgroup's rows. r: what o and l refer to, at most LAG / c below the maximum. */
template <class S> struct rows {
    float o[S::DIM / 2], l[2];
    float2 r;
};

/* Let the rows refer to their maximum where it exceeds what they refer to by too much. */
template <class S> INLINE void follow(rows<S> &me, const float (&s)[S::BC / 2], float c)
{
    float2 old = me.r, above = make_float2(row_maximum(s, 0), row_maximum(s, 1));
    bool exceeded[2] = { (above.x - old.x) * c > LAG, (above.y - old.y) * c > LAG };
    if (!__any_sync(ALL_LANES, exceeded[0] || exceeded[1]))
        return;
    me.r = make_float2(exceeded[0] ? above.x : old.x, exceeded[1] ? above.y : old.y);
    float2 factor = factors(old, me.r, c);
    me.l[0] *= factor.x, me.l[1] *= factor.y;
    rescale(me.o, factor);
}

/* O leaves through the place of the warp's queries, 16 rows of each panel, which nobody needs any more. */
template <class S> INLINE void store(rows<S> &me, const problem &p, int head, int row, int warpgroup)
{
    float *lse = p.lse ? p.lse + (int64_t)head * p.seq_q + row : NULL;
    rescale(me.o, finish_rows(lse, p.seq_q - row, make_float2(me.l[0], me.l[1]), scaled(me.r, p.c)));
    named_barrier(1 + warpgroup, 128); /* of the warpgroup: all its products with Q are done */
    uint32_t box = shared_address(shared<S>().q[warpgroup]) + threadIdx.x % 128 / 32 * 16 * 128;
#pragma unroll
    for (int panel = 0; panel < S::DIM / PANEL; panel++, box += ROWS * 128) {
        fill_box(box, me.o, panel, typename S::T());
        if (lane() == 0)
            tma_store(&p.o, box, row, panel, head);
    }
    if (lane() == 0)
        tma_store_wait_read<0>(); /* shared memory must last until the boxes have been read */
}

template <class S> INLINE void attend(const problem &p)
{
    memory<S> &m = shared<S>();
    const int warpgroup = uniform(threadIdx.x / 128);
    const int head = blockIdx.x / p.row_tiles, kv_head = head / p.heads * p.kv_heads + head % p.heads / (p.heads / p.kv_heads);
    const int first_row = (p.row_tiles - 1 - (int)blockIdx.x % p.row_tiles) * S::BR; /* the last rows first: they see the most keys */
    const int row = first_row + ROWS * warpgroup + row_of_thread();
    const int visible = min(p.seq_k, first_row + ROWS * warpgroup + p.more); /* to the warpgroup's first row */
    const int blocks = (min(p.seq_k, first_row + S::BR - 1 + p.more) + S::BC - 1) / S::BC; /* if positive */

    if (threadIdx.x == 0) {
        load_queries<S>(p, head, first_row);
        if (blocks > 0)
            load_block<S>(p, 0, kv_head, (blocks - 1) * S::BC);
    }
    const uint64_t q = wgmma_descriptor(uniform(shared_address(m.q[warpgroup])), 0), k = wgmma_descriptor(shared_address(m.k), 0);
    const uint64_t v = wgmma_descriptor(shared_address(m.v), S::BC * 128);
    rows<S> me = {};
    me.r = make_float2(-INFINITY, -INFINITY);
    wait_full(m.queries, 0);
    if (p.sign != 1.0f)
        multiply_queries(m.q[warpgroup], p.sign, warpgroup);
    for (int n = 0; n < blocks; n++) {
        const int first_key = (blocks - 1 - n) * S::BC;
        float s[S::BC / 2];
        uint32_t weights[S::BC / 4];
        wait_full(m.blocks, n);
        begin_scores<S::DIM>(s, q, k + n % STAGES * (S::BYTES / 16), typename S::T());
        if (threadIdx.x == 0 && n + 1 < blocks)
            load_block<S>(p, n + 1, kv_head, first_key - S::BC);
        wgmma_wait<0>();
        arrived(s);
        if (first_key + S::BC > visible)
            mask(s, min(p.seq_k, row + p.more) - first_key, min(p.seq_k, row + 8 + p.more) - first_key);
        follow(me, s, p.c);
        exponentials<0, S::BC / 8>(s, refer(s, me.r, p.c), p.c, me.l);
        pack_weights(weights, s, typename S::T());
        begin_values(me.o, weights, v + n % STAGES * (S::BYTES / 16), true, typename S::T());
        end_values(me.o, weights);
        release_together(m.blocks, n);
    }
    store(me, p, head, row, warpgroup);
}

template <class S> static __global__ void __launch_bounds__(128 * S::WGS, 1)
    hopper_attention_kernel(const __grid_constant__ struct problem p)
{
    needs_hopper();
    if constexpr (HOPPER) {
        if (threadIdx.x == 0) {
            ring_init(shared<S>().queries, 1);
            ring_init(shared<S>().blocks, S::WGS);
            mbarrier_init_fence();
        }
        __syncthreads();
        attend<S>(p);
    }
}

/* ---- launching */

template <class S, class T> static void launch_as(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention a,
                                                  cudaStream_t stream)
{
    int64_t heads = a.batch * a.heads, kv_heads = a.batch * a.kv_heads;
    struct problem p = {};
    static_assert(sizeof(memory<S>) <= SHARED_BYTES, "more than a block's shared memory");
    if (!attention_map(&p.q, Q, heads, a.seq_q, S::DIM, ROWS, S::DIM / PANEL) ||
        !attention_map(&p.k, K, kv_heads, a.seq_k, S::DIM, S::BC, S::DIM / PANEL) ||
        !attention_map(&p.v, V, kv_heads, a.seq_k, S::DIM, S::BC, S::DIM / PANEL) ||
        !attention_map(&p.o, O, heads, a.seq_q, S::DIM, 16, 1))
        return;
    p.lse = lse;
    p.seq_q = (int)a.seq_q, p.seq_k = (int)a.seq_k;
    p.heads = (int)a.heads, p.kv_heads = (int)a.kv_heads;
    p.row_tiles = (p.seq_q + S::BR - 1) / S::BR;
    p.more = a.causal ? p.seq_k - p.seq_q + 1 : p.seq_k;
    p.c = exponent_scale(a.scale), p.sign = scale_sign(a.scale);
    cudaFuncSetAttribute(hopper_attention_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<S>));
    hopper_attention_kernel<S><<<(unsigned)(p.row_tiles * heads), 128 * S::WGS, sizeof(memory<S>), stream>>>(p);
}

template <class T> static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention a, cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, a))
        return;
    if (a.dim == 128)
        launch_as<shape<T, 128, 3, 128>>(O, lse, Q, K, V, a, stream);
    else
        launch_as<shape<T, 64, 4, 128>>(O, lse, Q, K, V, a, stream);
}

void hopper_attention_fp16_gpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention a, void *,
                               cudaStream_t stream)
{
    launch(O, lse, Q, K, V, a, stream);
}

void hopper_attention_bf16_gpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention a, void *,
                               cudaStream_t stream)
{
    launch(O, lse, Q, K, V, a, stream);
}

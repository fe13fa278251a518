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
 * leaves the values all of fp32's range but 2^16 a block: four lanes share a row. The lesson has the proof.
 *
 * Changed since step 15: next_block() checks instead of looking for a maximum first; repair(), and no follow() or raise(); one shape for
 * each head dimension.
 */
#include "15_persistent_attention/tiles.cuh"
#include "steps.h"
#include "timeline.cuh"

#define BOUND 0x1p14f      /* of a lane's sum of exponentials in a block: below 65504, where fp16 ends */

/* ---- consumers: waiting, and products */

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

template <class S> INLINE uint32_t r_of_row(void)
{
    return shared_address(&shared<S>().r[threadIdx.x / 4]);
}

/* ---- consumers: a tile */

/*
 * Where the warpgroup's rows end, and which blocks need a mask. Returns how many blocks they do not see at all. What comes out of
 * memory might differ from lane to lane; uniform() lets the compiler know that the loops over blocks are the same for all.
 */
template <class S> INLINE int begin_tile(consumer<S> &me, const problem &p)
{
    struct tile t = announced<S>(me.tiles);
    int first = t.first_row + ROWS * me.warpgroup + p.more; /* keys that the first row sees; the last sees 63 more */
    int blocks = max(1, (min(p.seq_k, first + ROWS - 1) + S::BC - 1) / S::BC);
    me.block = uniform(blocks - 1);
    me.masked_from = uniform(max(0, min(p.seq_k, first)) / S::BC);
    return uniform(t.blocks - blocks);
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
            tma_store(&p.o, box, row, panel, t.head);
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
    if (p.sign != 1.0f)
        multiply_queries(shm.q[me.warpgroup][me.tiles % 2], p.sign, me.warpgroup);
    wait_full(shm.keys, me.keys);
    begin_scores(s, me);
    if (BEFORE) {
        wait_full(shm.values, me.values);
        begin_values(me, me.add);
    }
    wgmma_wait<BEFORE>();
    arrived(s);
    release_together(shm.keys, me.keys++);
    if (BEFORE)
        release_together(shm.queries[me.warpgroup], me.tiles - 1);
    if (me.block >= me.masked_from)
        mask_block(s, me, p);
    float2 l = make_float2(me.l[0], me.l[1]), before = load_pair(r_of_row<S>());
    float2 r = make_float2(row_maximum(s, 0), row_maximum(s, 1));
    me.l[0] = me.l[1] = 0.0f;
    exponentials<0, S::BC / 8>(s, keep_reference(s, r, p.c, m_of_thread<S>(), r_of_row<S>()), p.c, me.l);
    if (BEFORE) {
        stay_above(l.x + me.l[0] + me.l[1]);
        end_values(me.o, me.p);
        release_together(shm.values, me.values++);
    }
    pack_weights(me.p, s, typename S::T());
    if (BEFORE) {
        end_tile(me, p, announced<S>(me.tiles - 1), l, scaled(before, p.c));
        release(shm.tiles, me.tiles - 1);
    }
    skip(shm.values, me.values, skipped, me.warpgroup);
    me.add = false;
}

/* A sum is out of bounds, infinite or NaN: of a row that is not near, whose m is NaN, always. The rows where it is refer to their maximum from now on. */
template <class S> INLINE void repair(float (&s)[S::BC / 2], consumer<S> &me, const problem &p, float (&sum)[2], bool masked)
{
    count(REPAIRS);
    begin_scores(s, me);
    wgmma_wait<0>();
    arrived(s);
    if (masked)
        mask_block(s, me, p);
    float2 old = load_pair(r_of_row<S>()), above = make_float2(row_maximum(s, 0), row_maximum(s, 1)), r = old;
    if (__ballot_sync(ALL_LANES, !(sum[0] < BOUND)) >> (lane() & ~3) & 15) /* in any of the row's four lanes */
        r.x = fmaxf(old.x, above.x);
    if (__ballot_sync(ALL_LANES, !(sum[1] < BOUND)) >> (lane() & ~3) & 15)
        r.y = fmaxf(old.y, above.y);
    float2 factor = factors(old, r, p.c);
    count_idle(r.x != old.x || r.y != old.y || !near(scaled(r, p.c)), me.warpgroup);
    me.l[0] *= factor.x, me.l[1] *= factor.y;
    rescale(me.o, factor);
    sum[0] = sum[1] = 0.0f;
    exponentials<0, S::BC / 8>(s, keep_reference(s, r, p.c, m_of_thread<S>(), r_of_row<S>()), p.c, sum);
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
    wgmma_wait<1>(); /* for the scores; P V may still run */
    arrived(s);
    if (MASKED)
        mask_block(s, me, p);
    exponentials<0, S::EARLY>(s, m, p.c, sum);
    if (__any_sync(ALL_LANES, me.l[0] + sum[0] + sum[1] < 0.0f)) { /* never: as stay_above(), but without a trap in the loop */
        end_values(me.o, me.p);
        rescale(me.o, make_float2(0.0f, 0.0f));
    } else {
        end_values(me.o, me.p);
    }
    release_together(shm.values, me.values++);
    exponentials<S::EARLY, S::BC / 8>(s, m, p.c, sum);
    pack_weights(me.p, s, typename S::T());
    count(CHECKS);
    if (named_barrier_any(1 + me.warpgroup, 128, !(sum[0] < BOUND && sum[1] < BOUND)))
        repair(s, me, p, sum, MASKED);
    me.l[0] += sum[0];
    me.l[1] += sum[1];
    release_together(shm.keys, me.keys++); /* only now */
}

template <class S> INLINE void consume(const problem &p, int warpgroup)
{
    consumer<S> me = { warpgroup };
    wait_full(shared<S>().tiles, 0);
    first_block<S, false>(me, p);
    for (;;) {
        me.block--;
#pragma unroll 1
        for (; me.block >= me.masked_from && me.block >= 0; me.block--)
            next_block<S, true>(me, p);
#pragma unroll 1
        for (; me.block >= 0; me.block--)
            next_block<S, false>(me, p);
        wait_full(shared<S>().tiles, ++me.tiles);
        if (announced<S>(me.tiles).blocks == 0)
            break;
        first_block<S, true>(me, p);
    }
    wait_full(shared<S>().values, me.values);
    begin_values(me, me.add);
    end_values(me.o, me.p);
    end_tile(me, p, announced<S>(me.tiles - 1), make_float2(me.l[0], me.l[1]), scaled(load_pair(r_of_row<S>()), p.c));
    if (lane() == 0)
        tma_store_wait_read<0>(); /* shared memory must last until the boxes have been read */
}

template <class S> static __global__ void __launch_bounds__(128 * (S::WGS + 1), 1)
    optimistic_attention_kernel(const __grid_constant__ struct problem p)
{
    needs_hopper();
    if constexpr (HOPPER) {
        begin_rings<S>();
        int warpgroup = uniform(threadIdx.x / 128);
        if (warpgroup == S::WGS) {
            produce<S>(p);
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
    struct problem p;
    if (!problem_of<S>(&p, O, lse, Q, K, V, a, workspace))
        return;
    cudaFuncSetAttribute(optimistic_attention_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(memory<S>));
    timeline_at_exit();
    optimistic_attention_kernel<S><<<min(multiprocessors(), p.tiles), 128 * (S::WGS + 1), sizeof(memory<S>), stream>>>(p);
}

/* Which shape for which head dimension: the lesson has the measurements behind it. */
template <class T> static void launch(T *O, float *lse, const T *Q, const T *K, const T *V, struct attention a, void *workspace,
                                      cudaStream_t stream)
{
    if (!takes_16_bits(O, Q, K, V, a))
        return;
    if (a.dim == 128)
        launch_as<shape<T, 128, 2, 128, 2, 240, 8>>(O, lse, Q, K, V, a, workspace, stream);
    else
        launch_as<shape<T, 64, 4, 64, 4, 112, 4>>(O, lse, Q, K, V, a, workspace, stream);
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

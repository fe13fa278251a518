/*
 * Step 13, fused attention on the GPU: the merge with a payload, and nothing of size L^2 anywhere.
 *
 * The state of a softmax, (m, l), gets a third part: o, the sum of exp(score - m) v, a vector. Two states merge as ever, and o
 * goes the way that l goes:
 *
 *     m = max(m1, m2)    l = l1 e^(m1-m) + l2 e^(m2-m)    o = o1 e^(m1-m) + o2 e^(m2-m)
 *
 * One key is the state (score, 1, v). Merged over all keys, o / l is the output: the loop is step 03's, with vectors.
 *
 * A warp owns a query row, and a block has four. A lane has every 32nd dim of q and o, in registers: it multiplies its part of q
 * by its part of a key, the warp adds up the score, and each lane merges its part of the value.
 *
 * Elements moved to and from DRAM: 4 L dim, so long as K and V of a head fit L2. But every warp reads all of K and V from caches,
 * 2 elements for 2 multiply-adds, and adds up each score through five shuffles in a row: bound by both, far from any ceiling.
 * Changed since step 12: one kernel, no scores in memory, O(L dim) of it in all; fp32 only.
 */
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define BR 4  /* queries of a block, a warp each */

/* x: (dim). A lane's elements, D of them: lane, lane + 32, ...; 0 past the end. */
template <int D> static __device__ void load_part(float part[D], const float *x, int dim)
{
    for (int i = 0; i < D; i++) {
        int d = i * 32 + threadIdx.x % 32;
        part[i] = d < dim ? x[d] : 0.0f;
    }
}

/* What l and o of a part count for in a whole with maximum m. Nothing, if the part is empty: exp(-inf - -inf) would be NaN. */
static __device__ float share(struct softmax_state part, float m)
{
    return part.l == 0.0f ? 0.0f : expf(part.m - m);
}

/* Q, O: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), with dim <= DIM. lse: (batch, heads, seq_q), or NULL. */
template <int DIM> static __global__ void __launch_bounds__(32 * BR)
    fused_attention_kernel(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    constexpr int D = DIM / 32;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = (int)p.dim;
    int64_t tiles = (p.seq_q + BR - 1) / BR, head = blockIdx.x / tiles, query = blockIdx.x % tiles * BR + warp;
    int64_t kv_head = attention_kv_head(p, head), visible = attention_visible(p, query);
    if (query >= p.seq_q)
        return;
    Q += head * p.seq_q * dim;
    O += head * p.seq_q * dim;
    K += kv_head * p.seq_k * dim;
    V += kv_head * p.seq_k * dim;

    float q[D], k[D], v[D], o[D] = {};
    struct softmax_state state = softmax_empty();
    load_part<D>(q, Q + query * dim, dim);
    for (int64_t key = 0; key < visible; key++) {
        load_part<D>(k, K + key * dim, dim);
        load_part<D>(v, V + key * dim, dim);
        float score = 0.0f;
        for (int i = 0; i < D; i++)
            score += q[i] * k[i];

        struct softmax_state one = softmax_one(p.scale * warp_sum(score));
        struct softmax_state both = softmax_merge(state, one);
        float keep = share(state, both.m), add = share(one, both.m);
        for (int i = 0; i < D; i++)
            o[i] = o[i] * keep + v[i] * add;
        state = both;
    }

    float inverse = state.l == 0.0f ? 0.0f : 1.0f / state.l; /* no weight: zeros */
    for (int i = 0; i < D; i++)
        if (i * 32 + lane < dim)
            O[query * dim + i * 32 + lane] = o[i] * inverse;
    if (lse && lane == 0)
        lse[head * p.seq_q + query] = state.m + logf(state.l);
}

template <int DIM> static void launch(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p,
                                      cudaStream_t stream)
{
    int64_t blocks = p.batch * p.heads * ((p.seq_q + BR - 1) / BR);
    fused_attention_kernel<DIM><<<(unsigned)blocks, 32 * BR, 0, stream>>>(O, lse, Q, K, V, p);
}

void fused_attention_gpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p,
                         void *, cudaStream_t stream)
{
    if (p.dim > 256)
        return refuse();
    BY_DIM(p.dim, launch, O, lse, Q, K, V, p, stream);
}

/*
 * Step 12, fused attention on the GPU: the merge with a payload, and nothing of size L^2 anywhere.
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
 * Changed since step 11: one kernel, no scores in memory, O(L dim) of it in all; fp32 only.
 */
#include "gpu.cuh"
#include "merge.h"
#include "steps.h"

#define THREADS 128  /* threads of a block: four warps, a query row each */

/* x: (dim). A lane's elements: lane, lane + 32, ...; 0 past the end. */
template <int PER_LANE> static __device__ void load_part(float part[PER_LANE], const float *x, int64_t dim)
{
    for (int i = 0; i < PER_LANE; i++) {
        int d = i * 32 + threadIdx.x % 32;
        part[i] = d < dim ? x[d] : 0.0f;
    }
}

/* What l and o of a part count for in a whole with maximum m. Nothing, if the part is empty: exp(-inf - -inf) would be NaN. */
static __device__ float share(struct softmax_state part, float m)
{
    return part.l == 0.0f ? 0.0f : expf(part.m - m);
}

/* Q, O: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), with dim <= 32 PER_LANE. */
template <int PER_LANE> static __global__ void __launch_bounds__(THREADS)
    fused_attention_kernel(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    if (row >= p.batch * p.heads * p.seq_q)
        return;
    int64_t kv_head = attention_kv_head(p, row / p.seq_q), visible = attention_visible(p, row % p.seq_q);
    K += kv_head * p.seq_k * p.dim;
    V += kv_head * p.seq_k * p.dim;

    float q[PER_LANE], k[PER_LANE], v[PER_LANE], o[PER_LANE] = {};
    struct softmax_state s = softmax_empty();
    load_part<PER_LANE>(q, Q + row * p.dim, p.dim);
    for (int64_t key = 0; key < visible; key++) {
        load_part<PER_LANE>(k, K + key * p.dim, p.dim);
        load_part<PER_LANE>(v, V + key * p.dim, p.dim);
        float score = 0.0f;
        for (int i = 0; i < PER_LANE; i++)
            score += q[i] * k[i];

        struct softmax_state one = softmax_one(p.scale * warp_sum(score));
        struct softmax_state both = softmax_merge(s, one);
        float keep = share(s, both.m), add = share(one, both.m);
        for (int i = 0; i < PER_LANE; i++)
            o[i] = o[i] * keep + v[i] * add;
        s = both;
    }

    for (int i = 0; i < PER_LANE; i++)
        if (i * 32 + lane < p.dim)
            O[row * p.dim + i * 32 + lane] = s.l == 0.0f ? 0.0f : o[i] / s.l; /* no weight: zeros */
    if (lse && lane == 0)
        lse[row] = s.m + logf(s.l);
}

void fused_attention_gpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p, void *,
                         cudaStream_t stream)
{
    unsigned blocks = (unsigned)((p.batch * p.heads * p.seq_q * 32 + THREADS - 1) / THREADS);
    if (p.dim <= 32)
        fused_attention_kernel<1><<<blocks, THREADS, 0, stream>>>(O, lse, Q, K, V, p);
    else if (p.dim <= 64)
        fused_attention_kernel<2><<<blocks, THREADS, 0, stream>>>(O, lse, Q, K, V, p);
    else if (p.dim <= 128)
        fused_attention_kernel<4><<<blocks, THREADS, 0, stream>>>(O, lse, Q, K, V, p);
    else if (p.dim <= 256)
        fused_attention_kernel<8><<<blocks, THREADS, 0, stream>>>(O, lse, Q, K, V, p);
    else
        refuse();
}

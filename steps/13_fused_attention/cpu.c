/*
 * Step 13, fused attention: the merge of step 03 with a payload.
 *
 * The state of a query over some keys is (m, l, o): besides the maximum and the sum of exp(s - m), the sum of exp(s - m) v. One
 * key alone has the state (s, 1, v). Two states merge by the rule of merge.h, and the third part like the second:
 *
 *     o = o1 exp(m1 - m) + o2 exp(m2 - m)
 *
 * A score is used the moment it is known, so nobody keeps it: there is no S, and no P. At the end, O = o / l.
 *
 * Memory: none; o lies where O will be.
 * Changed since step 12: one loop over the keys in place of two products and a softmax, and no library.
 */
#include <math.h>

#include "merge.h"
#include "steps.h"

/* What a part's sums count for in a union whose maximum is m. The empty part, with its m of -inf, counts for nothing. */
static float share(struct softmax_state part, float m)
{
    return part.l == 0.0f ? 0.0f : expf(part.m - m);
}

/* One query. o, q: (dim), K, V: (keys, dim). Returns its (m, l). o is divided by l; where l is 0, it is 0. */
static struct softmax_state attend(float *o, const float *q, const float *K, const float *V, int64_t keys, int64_t dim,
                                   float scale)
{
    struct softmax_state s = softmax_empty();
    for (int64_t i = 0; i < dim; i++)
        o[i] = 0.0f;

    for (int64_t key = 0; key < keys; key++) {
        const float *k = K + key * dim, *v = V + key * dim;
        float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < dim; i++)
            dot += q[i] * k[i];

        struct softmax_state one = softmax_one(scale * dot), both = softmax_merge(s, one);
        float keep = share(s, both.m), add = share(one, both.m);
#pragma omp simd
        for (int64_t i = 0; i < dim; i++)
            o[i] = o[i] * keep + v[i] * add;
        s = both;
    }

    for (int64_t i = 0; i < dim; i++)
        o[i] = s.l == 0.0f ? 0.0f : o[i] / s.l;
    return s;
}

/* O, Q: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), lse: (batch, heads, seq_q) or NULL. */
void fused_attention_cpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
#pragma omp parallel for
    for (int64_t row = 0; row < p.batch * p.heads * p.seq_q; row++) {
        int64_t head = row / p.seq_q, k_at = attention_kv_head(p, head) * p.seq_k * p.dim;
        int64_t keys = attention_visible(p, row % p.seq_q);
        struct softmax_state s = attend(O + row * p.dim, Q + row * p.dim, K + k_at, V + k_at, keys, p.dim, p.scale);
        if (lse)
            lse[row] = s.m + logf(s.l);
    }
}

/*
 * Mutant: the causal mask is forgotten.
 *
 * Looks like: `causal` is an argument that nobody reads. Without a mask all is well, and the last query is always right.
 * Caught by: "causal": each query but the last sees all later keys.
 */
#include "attention.h"

void attention_no_mask(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        a.keys = p.seq_k; /* should be left alone */
        float m = -INFINITY, l = 0.0f;
        for (int64_t key = 0; key < a.keys; key++) {
            float s = score(a, key), max = fmaxf(m, s), keep = exp_below(m, max), e = exp_below(s, max);
            add_value(a, key == 0 ? 0.0f : keep, e, key);
            l = l * keep + e;
            m = max;
        }
        finish(a, lse, row, m, l);
    }
}

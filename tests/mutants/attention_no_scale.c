/*
 * Mutant: the scores are not scaled.
 *
 * Looks like: softmax(Q K^T) V: 1 / sqrt(dim) is easily forgotten, and the result looks like an attention.
 * Caught by: "ordinary": the weights are far from what they should be.
 */
#include "attention.h"

void attention_no_scale(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        a.scale = 1.0f; /* should be p.scale */
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

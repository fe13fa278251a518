/*
 * Mutant: under a causal mask a query sees the key after its own.
 *
 * Looks like: j <= i + 1 in place of j <= i; or i + 1 keys, counted from 1.
 * Caught by: "causal": each query but the last sees one key too many: it looks into the future.
 */
#include "attention.h"

void attention_key_too_many(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        a.keys += a.keys < p.seq_k; /* should be left alone */
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

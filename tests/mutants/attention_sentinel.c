/*
 * Mutant: a finite number in the place of -infinity.
 *
 * Looks like: a way around -inf - -inf, which is NaN: "no score is that small".
 * In the wild: flashinfer-ai/flashinfer#4401 (-5e4).
 * Caught by: "far below": scores around -51200 do not raise the maximum, and their exp is 0.
 */
#include "attention.h"

void attention_sentinel(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        float m = -5e4f, l = 0.0f; /* should start at -INFINITY */
        for (int64_t key = 0; key < a.keys; key++) {
            float s = score(a, key), max = fmaxf(m, s), keep = exp_below(m, max), e = exp_below(s, max);
            add_value(a, key == 0 ? 0.0f : keep, e, key);
            l = l * keep + e;
            m = max;
        }
        finish(a, lse, row, m, l);
    }
}

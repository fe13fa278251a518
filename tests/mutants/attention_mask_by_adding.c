/*
 * Mutant: a score that must not count is made smaller by 100.
 *
 * Looks like: adding a large negative number is a mask, too; how large it must be depends on the scores.
 * Caught by: "rising": the next keys score 100 more than all that a query sees, and win.
 */
#include "attention.h"

void attention_mask_by_adding(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        float m = -INFINITY, l = 0.0f;
        for (int64_t key = 0; key < p.seq_k && a.keys > 0; key++) {
            float s = score(a, key) - (key < a.keys ? 0.0f : 100.0f); /* should be -INFINITY */
            float max = fmaxf(m, s), keep = exp_below(m, max), e = exp_below(s, max);
            add_value(a, key == 0 ? 0.0f : keep, e, key);
            l = l * keep + e;
            m = max;
        }
        finish(a, lse, row, m, l);
    }
}

/*
 * Mutant: the last key is left out.
 *
 * Looks like: a loop that ends one too early. Of 1024 keys it is one, with a weight near 1/1024.
 * In the wild: a check that allows 0.01 accepts it at 1024 keys: five of the published checks that we re-created do.
 * Caught by: "ordinary": the bound leaves room for rounding, and a key is more than that.
 */
#include "attention.h"

void attention_last_key_dropped(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        a.keys -= a.keys > 1; /* should be left alone */
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

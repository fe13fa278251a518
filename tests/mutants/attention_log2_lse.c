/*
 * Mutant: lse is a logarithm to base 2.
 *
 * Looks like: inside, powers of 2 are faster, so that m and l are at hand in that unit. O is right: only who merges
 * parts by their lse notices.
 * In the wild: meta-pytorch/attention-gym#200.
 * Caught by: "ordinary": lse has a bound of its own.
 */
#include "attention.h"

void attention_log2_lse(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        float m = -INFINITY, l = 0.0f;
        for (int64_t key = 0; key < a.keys; key++) {
            float s = score(a, key), max = fmaxf(m, s), keep = exp_below(m, max), e = exp_below(s, max);
            add_value(a, key == 0 ? 0.0f : keep, e, key);
            l = l * keep + e;
            m = max;
        }
        finish(a, lse, row, m, l);
        if (lse)
            lse[row] *= 1.44269504f; /* should be left alone */
    }
}

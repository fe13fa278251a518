/*
 * Mutant: the scale is 1 / sqrt(dim), whatever was asked for.
 *
 * Looks like: the usual one, computed once more, and the argument forgotten.
 * Caught by: "scale": scales that are not the usual one.
 */
#include "attention.h"

void attention_own_scale(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        a.scale = 1 / sqrtf((float)p.dim); /* should be p.scale */
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

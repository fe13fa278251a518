/*
 * Mutant: the running maximum starts at 0.
 *
 * Looks like: a harmless initial value. It is, as long as a score above 0, or not far below, comes along.
 * In the wild: Dao-AILab/flash-attention#2082 (a maximum that is reset to 0).
 * Caught by: "adversarial": a query whose scores all lie around -320: exp(-320 - 0) is 0, and so is the sum.
 */
#include "attention.h"

void attention_maximum_from_zero(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        float m = 0.0f, l = 0.0f; /* should start at -INFINITY */
        for (int64_t key = 0; key < a.keys; key++) {
            float s = score(a, key), max = fmaxf(m, s), keep = exp_below(m, max), e = exp_below(s, max);
            add_value(a, key == 0 ? 0.0f : keep, e, key);
            l = l * keep + e;
            m = max;
        }
        finish(a, lse, row, m, l);
    }
}

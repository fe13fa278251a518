/*
 * Mutant: NaN in, numbers out.
 *
 * Looks like: fmaxf drops a NaN; and if a sum that is not positive is taken for "no key", what is left is a row of
 * zeros.
 * In the wild: PaddleJitLab/CUDATutorial#69: fmaxf(NaN, 0) is 0, and results are declared correct.
 * Caught by: "NaN queries": what has a NaN in it must be NaN.
 */
#include "attention.h"

void attention_nan_swallowed(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
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
        finish(a, lse, row, m, l > 0.0f ? l : 0.0f); /* should be l */
    }
}

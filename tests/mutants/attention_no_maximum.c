/*
 * Mutant: no maximum is subtracted.
 *
 * Looks like: the definition, taken at its word. Of random numbers the scores are small, exp of them fits, and the
 * result is as good as any.
 * In the wild: not one of the published teaching checks that we re-created rejects it: all their inputs are random
 * numbers.
 * Caught by: "rising": scores reach 320, and exp(89) is infinite in fp32.
 */
#include "attention.h"

void attention_no_maximum(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        float l = 0.0f;
        for (int64_t key = 0; key < a.keys; key++) {
            float e = expf(score(a, key));
            add_value(a, key == 0 ? 0.0f : 1.0f, e, key);
            l += e;
        }
        finish(a, lse, row, 0.0f, l);
    }
}

/*
 * Mutant: O is rescaled when the maximum rises, l is not.
 *
 * Looks like: one line of three forgotten. O is too small by a factor, the same for the whole row.
 * In the wild: a check that allows 0.1 accepts it at 8192 keys, where every output is small.
 * Caught by: "ordinary": the bound is relative to what is added up.
 */
#include "attention.h"

#define TILE 16

void attention_sum_not_rescaled(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        float m = -INFINITY, l = 0.0f;
        for (int64_t tile = 0; tile < a.keys; tile += TILE) {
            int64_t end = tile + TILE < a.keys ? tile + TILE : a.keys;
            float previous = m;
            for (int64_t key = tile; key < end; key++)
                m = fmaxf(m, score(a, key));
            float keep = exp_below(previous, m);
            for (int64_t key = tile; key < end; key++) {
                float e = exp_below(score(a, key), m);
                add_value(a, key > tile ? 1.0f : tile ? keep : 0.0f, e, key);
                l += e; /* should have been multiplied by keep before */
            }
        }
        finish(a, lse, row, m, l);
    }
}

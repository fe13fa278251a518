/*
 * Mutant: the repair brings l to the new reference, and forgets O.
 *
 * Looks like: one line of two. Where no score rises far above the first tile's maximum, there is no repair, and all is well.
 * Caught by: "rising": most tiles need one.
 */
#include "attention.h"

#define TILE 16
#define BOUND 0x1p14f /* a sum that reaches it asks for a new reference */

void attention_repair_without_output(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        float m = 0.0f, l = 0.0f;
        for (int64_t tile = 0; tile < a.keys; tile += TILE) {
            int64_t end = tile + TILE < a.keys ? tile + TILE : a.keys;
            float maximum = -INFINITY, sum = l;
            for (int64_t key = tile; key < end; key++)
                maximum = fmaxf(maximum, score(a, key));
            m = tile == 0 ? maximum : m;
            for (int64_t key = tile; key < end; key++)
                sum += exp_below(score(a, key), m);
            if (!(sum < BOUND) && maximum > m) { /* too far above the reference */
                float keep = exp_below(m, maximum);
                m = maximum;
                l *= keep; /* and O? */
            }
            for (int64_t key = tile; key < end; key++) {
                float e = exp_below(score(a, key), m);
                add_value(a, key > 0 ? 1.0f : 0.0f, e, key);
                l += e;
            }
        }
        finish(a, lse, row, m, l);
    }
}

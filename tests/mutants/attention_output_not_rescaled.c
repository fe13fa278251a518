/*
 * Mutant: l is rescaled when the maximum rises, O is not.
 *
 * Looks like: one line of three forgotten. The first tile is right, and so is every row whose maximum lies there.
 * Caught by: "ordinary": most rows have their maximum in a later tile.
 */
#include "attention.h"

#define TILE 16

void attention_output_not_rescaled(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        float m = -INFINITY, l = 0.0f;
        for (int64_t tile = 0; tile < a.keys; tile += TILE) {
            int64_t end = tile + TILE < a.keys ? tile + TILE : a.keys;
            float previous = m;
            for (int64_t key = tile; key < end; key++)
                m = fmaxf(m, score(a, key));
            l *= exp_below(previous, m);
            for (int64_t key = tile; key < end; key++) {
                float e = exp_below(score(a, key), m);
                add_value(a, key > 0 ? 1.0f : 0.0f, e, key); /* should be * exp(previous - m) at each tile's start */
                l += e;
            }
        }
        finish(a, lse, row, m, l);
    }
}

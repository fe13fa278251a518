/*
 * Mutant: the first tile's maximum is the reference for all tiles, and nobody looks whether that went well.
 *
 * Looks like: any reference gives the same quotient, so why look for the maximum of every tile? Because a later score may be
 * so far above it that its exp is infinite.
 * Caught by: "rising": the first tile's maximum is near -320, the last one's near 320.
 */
#include "attention.h"

#define TILE 16

void attention_no_repair(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        float m = 0.0f, l = 0.0f;
        for (int64_t tile = 0; tile < a.keys; tile += TILE) {
            int64_t end = tile + TILE < a.keys ? tile + TILE : a.keys;
            for (int64_t key = 0; tile == 0 && key < end; key++)
                m = key == 0 ? score(a, key) : fmaxf(m, score(a, key));
            for (int64_t key = tile; key < end; key++) {
                float e = exp_below(score(a, key), m);
                add_value(a, key > 0 ? 1.0f : 0.0f, e, key);
                l += e;
            }
        }
        finish(a, lse, row, m, l);
    }
}

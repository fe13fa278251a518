/*
 * Mutant: the maximum of the tile in place of the running maximum.
 *
 * Looks like: one fmaxf too few in the loop over tiles. The rescale still keeps O and l right, as long as no tile
 * lies 88 below the one before.
 * In the wild: tile-ai/tilelang#1148.
 * Caught by: "falling": exp(previous maximum - maximum) is infinite.
 */
#include "attention.h"

#define TILE 16

void attention_tile_maximum(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        float m = -INFINITY, l = 0.0f;
        for (int64_t tile = 0; tile < a.keys; tile += TILE) {
            int64_t end = tile + TILE < a.keys ? tile + TILE : a.keys;
            float previous = m;
            m = -INFINITY; /* should go on from `previous` */
            for (int64_t key = tile; key < end; key++)
                m = fmaxf(m, score(a, key));
            float keep = exp_below(previous, m);
            l *= keep;
            for (int64_t key = tile; key < end; key++) {
                float e = exp_below(score(a, key), m);
                add_value(a, key > tile ? 1.0f : tile ? keep : 0.0f, e, key);
                l += e;
            }
        }
        finish(a, lse, row, m, l);
    }
}

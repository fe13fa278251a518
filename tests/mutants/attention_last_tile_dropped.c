/*
 * Mutant: the last tile is left out when it is not full.
 *
 * Looks like: the number of tiles is keys / TILE, rounded down.
 * In the wild: 66RING/tiny-flash-attention#12 and tspeterkim/flash-attention-minimal#2: wrong when the length is not
 * a multiple.
 * Caught by: "ordinary": 203 keys are 12 tiles of 16, and 11 keys more.
 */
#include "attention.h"

#define TILE 16

void attention_last_tile_dropped(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        a.keys = a.keys / TILE * TILE; /* should be rounded up */
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

/*
 * Mutant: the keys that fill up the last tile count as well.
 *
 * Looks like: shared memory beyond the last key is set to 0, and nobody masks it: a score of 0, which is a weight of
 * exp(0 - m).
 * Caught by: "ordinary": 203 keys are 12 tiles of 16, and 11 keys more; l is too large by 5 exp(-m).
 */
#include "attention.h"

#define TILE 16

void attention_padded_keys(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        float m = -INFINITY, l = 0.0f;
        for (int64_t tile = 0; tile < a.keys; tile += TILE) {
            int64_t end = tile + TILE < a.keys ? tile + TILE : a.keys;
            float previous = m;
            for (int64_t key = tile; key < tile + TILE; key++)
                m = fmaxf(m, key < end ? score(a, key) : 0.0f);
            float keep = exp_below(previous, m);
            l *= keep;
            for (int64_t key = tile; key < tile + TILE; key++) {
                float e = exp_below((key < end ? score(a, key) : 0.0f), m); /* should be -INFINITY */
                if (key < end)
                    add_value(a, key > tile ? 1.0f : tile ? keep : 0.0f, e, key);
                l += e;
            }
        }
        finish(a, lse, row, m, l);
    }
}

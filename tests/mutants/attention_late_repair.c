/*
 * Mutant: the reference is repaired only just before the sum would overflow.
 *
 * Looks like: floats go up to 2^127, so a sum of 2^60 is far from the end. But O is that sum times V.
 * In the wild: an experiment that preceded this course's step 19.
 * Caught by: "slopes": where V is near 1e30 = 2^100, O is infinite long before the sum is.
 */
#include "attention.h"

#define TILE 16
#define BOUND 0x1p60f /* a sum that reaches it asks for a new reference */

void attention_late_repair(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
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
                l *= keep;
                for (int64_t i = 0; i < p.dim; i++)
                    a.o[i] *= keep;
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

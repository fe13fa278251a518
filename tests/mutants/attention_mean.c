/*
 * Mutant: every key counts the same: O is the mean of V.
 *
 * Looks like: weights that never arrive. With small scores, and with equal keys, it is nearly or exactly right.
 * In the wild: a check that allows 0.1 accepts it at 8192 keys.
 * Caught by: "ordinary": random scores are not small enough.
 */
#include "attention.h"

void attention_mean(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        for (int64_t key = 0; key < a.keys; key++)
            add_value(a, key == 0 ? 0.0f : 1.0f, 1.0f, key); /* should be exp(score - m) */
        finish(a, lse, row, 0.0f, (float)a.keys);
    }
}

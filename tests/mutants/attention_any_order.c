/*
 * Mutant: the parts of a row are added in whatever order they are finished.
 *
 * Looks like: atomicAdd into O: right within the bound, but sums depend on their order in the last bits. Here a
 * counter decides the order.
 * In the wild: Dao-AILab/flash-attention#414, on gradients that cannot be repeated.
 * Caught by: "same bits": the second run starts with another part.
 */
#include "attention.h"

void attention_any_order(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    static int64_t start; /* which part is finished first: another one in every call */
    start++;
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        float m = -INFINITY, l = 0.0f;
        for (int64_t key = 0; key < a.keys; key++)
            m = fmaxf(m, score(a, key));
        for (int64_t i = 0; i < a.keys; i++) {
            int64_t key = (i + start) % a.keys;
            float e = exp_below(score(a, key), m);
            add_value(a, i == 0 ? 0.0f : 1.0f, e, key);
            l += e;
        }
        finish(a, lse, row, m, l);
    }
}

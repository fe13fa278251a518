/*
 * Mutant: merging two empty states gives NaN.
 *
 * Looks like: the merge rule without its guard: exp(-inf - -inf). Lanes without a key are empty, so it takes fewer
 * keys than lanes.
 * In the wild: the reduce_sum_max_op of karpathy/llm.c.
 * Caught by: "lengths": with one key, 7 of 8 lanes are empty.
 */
#include "attention.h"

#define LANES 8

void attention_empty_merge(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        float m[LANES], l[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            m[lane] = -INFINITY;
            l[lane] = 0.0f;
            for (int64_t key = lane; key < a.keys; key += LANES)
                m[lane] = fmaxf(m[lane], score(a, key));
            for (int64_t key = lane; key < a.keys; key += LANES)
                l[lane] += exp_below(score(a, key), m[lane]);
        }
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int lane = 0; lane < half; lane++) {
                float max = fmaxf(m[lane], m[lane + half]);
                l[lane] = l[lane] * expf(m[lane] - max) + l[lane + half] * expf(m[lane + half] - max);
                m[lane] = max;
            }
        for (int64_t key = 0; key < a.keys; key++)
            add_value(a, key > 0 ? 1.0f : 0.0f, exp_below(score(a, key), m[0]), key);
        finish(a, lse, row, m[0], l[0]);
    }
}

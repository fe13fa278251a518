/*
 * Mutant: rows that see no key are not written.
 *
 * Looks like: a tile of queries without a key has nothing to do, so the loop goes on to the next. Whatever was in O
 * remains.
 * In the wild: pytorch/pytorch#131060 and Dao-AILab/flash-attention#2082 are about rows without a key.
 * Caught by: "no keys": outputs are filled with NaN before every run.
 */
#include "attention.h"

void attention_no_key_rows(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        if (a.keys == 0)
            continue; /* should write zeros, and -inf */
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

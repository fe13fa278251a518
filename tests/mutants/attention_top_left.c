/*
 * Mutant: the causal mask begins at the first key, not at the last.
 *
 * Looks like: query i sees keys 0 to i. With as many queries as keys that is the same; with more keys, which a cache
 * holds, the last query misses the last keys.
 * In the wild: pytorch/pytorch#108108, HazyResearch/ThunderKittens#125, Dao-AILab/flash-attention#1778; in
 * NVIDIA/cutlass#2336 the verifier had the same mistake.
 * Caught by: "alignment": there are more keys than queries.
 */
#include "attention.h"

void attention_top_left(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        a.keys = !p.causal || row % p.seq_q + 1 > p.seq_k ? p.seq_k : row % p.seq_q + 1; /* should add seq_k - seq_q */
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

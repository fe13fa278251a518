/*
 * Mutant: query head h attends to key-value head h % kv_heads.
 *
 * Looks like: the groups are interleaved in place of being neighbours. With as many heads as key-value heads it is
 * the same, and with one key-value head, too.
 * In the wild: karpathy/llm.c#795 is a wrong head index.
 * Caught by: "grouped heads": 6 heads share 2.
 */
#include "attention.h"

void attention_wrong_head(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        int64_t head = row / p.seq_q, kv_head = head / p.heads * p.kv_heads + head % p.heads % p.kv_heads; /* % should be / */
        a.K = K + kv_head * p.seq_k * p.dim;
        a.V = V + kv_head * p.seq_k * p.dim;
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

/*
 * Mutant: two halves of the keys are averaged.
 *
 * Looks like: each half is a complete attention, so why not take the mean of the two? Because a half counts as much
 * as its sum of exp does.
 * In the wild: jzhang38/EasyContext#14 has the weights, and their exp overflows.
 * Caught by: "ordinary": the halves of random scores differ by a few percent.
 */
#include "attention.h"

void attention_split_without_weights(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    for (int64_t row = 0; row < query_count(p); row++) {
        struct query a = query_at(O, Q, K, V, p, row);
        int64_t border[] = { 0, a.keys / 2, a.keys };
        float out[256] = { 0 }, m = -INFINITY, l = 0.0f, sum = 0.0f;
        for (int64_t key = 0; key < a.keys; key++)
            m = fmaxf(m, score(a, key));
        for (int part = 0; part < 2; part++) {
            sum = 0.0f;
            for (int64_t key = border[part]; key < border[part + 1]; key++) {
                float e = exp_below(score(a, key), m);
                add_value(a, key == border[part] ? 0.0f : 1.0f, e, key);
                sum += e;
            }
            for (int64_t i = 0; i < a.dim && sum > 0.0f; i++)
                out[i] += a.o[i] / sum / (border[1] > 0 ? 2 : 1); /* should count for sum / l */
            l += sum;
        }
        for (int64_t i = 0; i < a.dim; i++)
            a.o[i] = out[i] * l;
        finish(a, lse, row, m, l);
    }
}

/*
 * Step 11, standard attention: the definition, one matrix after the other.
 *
 *     S = scale Q K^T        P = softmax of the rows of S        O = P V
 *
 * S has seq_q x seq_k numbers, far more than Q, K, V and O together once the sequence is longer than a few times dim. It is
 * written, read three times and overwritten by the softmax of step 02, and read once more.
 *
 * Memory: S of one head, 4 seq_q seq_k bytes.
 */
#include <math.h>

#include "machine.h"
#include "steps.h"

/* S = scale Q K^T, where the query sees the key. S: (seq_q, seq_k), Q: (seq_q, dim), K: (seq_k, dim). */
static void scores(float *S, const float *Q, const float *K, struct attention p)
{
#pragma omp parallel for
    for (int64_t query = 0; query < p.seq_q; query++) {
        int64_t keys = attention_visible(p, query);
        for (int64_t key = 0; key < keys; key++) {
            float sum = 0.0f;
            for (int64_t i = 0; i < p.dim; i++)
                sum += Q[query * p.dim + i] * K[key * p.dim + i];
            S[query * p.seq_k + key] = p.scale * sum;
        }
    }
}

/* A row of `keys` scores becomes its softmax. Returns the logarithm of its sum, with the maximum. */
static float softmax(float *row, int64_t keys)
{
    float max = -INFINITY;
    for (int64_t key = 0; key < keys; key++)
        max = fmaxf(max, row[key]);

    float base = max == -INFINITY ? 0.0f : max; /* no key with any weight: -inf - -inf would be NaN */
    float sum = 0.0f;
    for (int64_t key = 0; key < keys; key++) {
        row[key] = expf(row[key] - base);
        sum += row[key];
    }

    float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (int64_t key = 0; key < keys; key++)
        row[key] *= inverse;
    return base + logf(sum);
}

/* O = P V, over the keys that the query sees: 0 where it sees none. O: (seq_q, dim), P: (seq_q, seq_k), V: (seq_k, dim). */
static void output(float *O, const float *P, const float *V, struct attention p)
{
#pragma omp parallel for
    for (int64_t query = 0; query < p.seq_q; query++) {
        int64_t keys = attention_visible(p, query);
        for (int64_t i = 0; i < p.dim; i++) {
            float sum = 0.0f;
            for (int64_t key = 0; key < keys; key++)
                sum += P[query * p.seq_k + key] * V[key * p.dim + i];
            O[query * p.dim + i] = sum;
        }
    }
}

/* O, Q: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), lse: (batch, heads, seq_q) or NULL. */
void standard_attention_cpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    float *S = scratch((size_t)p.seq_q * (size_t)p.seq_k * sizeof *S);
    for (int64_t head = 0; head < p.batch * p.heads; head++) {
        int64_t q_at = head * p.seq_q * p.dim, k_at = attention_kv_head(p, head) * p.seq_k * p.dim;
        scores(S, Q + q_at, K + k_at, p);
#pragma omp parallel for
        for (int64_t query = 0; query < p.seq_q; query++) {
            float of_row = softmax(S + query * p.seq_k, attention_visible(p, query));
            if (lse)
                lse[head * p.seq_q + query] = of_row;
        }
        output(O + q_at, S, V + k_at, p);
    }
}

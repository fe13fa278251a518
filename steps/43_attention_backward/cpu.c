/*
 * Step 43, the gradient of attention: the definition, one matrix after the other.
 *
 *     P = softmax(scale Q K^T)     dV = P^T dO
 *     dP = dO V^T                  dS = P (dP - D), D a number a row: the sum of P dP over the keys (step 42)
 *     dQ = scale dS K              dK = scale dS^T Q
 *
 * Two products give two matrices of L x L numbers, the softmax's gradient is taken row by row, three products make gradients of
 * them. P is exp(score - lse), for the forward step has handed over the lse. Where heads of Q share a head of K and V (GQA), it
 * gets the sum of what they ask for.
 *
 * Memory: P and dS of one head, 8 seq_q seq_k bytes.
 */
#include <math.h>
#include <string.h>

#include "machine.h"
#include "steps.h"

static float dot(const float *a, const float *b, int64_t count)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

/* y += weight x */
static void add(float *y, float weight, const float *x, int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        y[i] += weight * x[i];
}

/* A query's row of P, over the `keys` keys that it sees. q: (dim), K: (seq_k, dim). */
static void weights(float *P, const float *q, const float *K, float lse, int64_t keys, struct attention p)
{
    for (int64_t key = 0; key < keys; key++)
        P[key] = expf(p.scale * dot(q, K + key * p.dim, p.dim) - lse);
}

/* Its row of dS: the gradient of a softmax whose result is P, where the loss changes by dP; and by dlse with the row's lse. */
static void differentiate(float *dS, const float *P, const float *dO, const float *V, float dlse, int64_t keys,
                          struct attention p)
{
    float D = 0.0f;
    for (int64_t key = 0; key < keys; key++) {
        dS[key] = dot(dO, V + key * p.dim, p.dim);
        D += P[key] * dS[key];
    }
    for (int64_t key = 0; key < keys; key++)
        dS[key] = P[key] * (dS[key] - D + dlse);
}

/* dK += scale dS^T Q, dV += P^T dO, for keys first ... last - 1 of a head. Q, dO: (seq_q, dim), P, dS: (seq_q, seq_k), which are
   there where a query sees the key. */
static void add_to_keys(float *dK, float *dV, const float *P, const float *dS, const float *Q, const float *dO, int64_t first,
                        int64_t last, struct attention p)
{
    for (int64_t query = 0; query < p.seq_q; query++) {
        int64_t keys = attention_visible(p, query);
        for (int64_t key = first; key < last && key < keys; key++) {
            add(dK + key * p.dim, p.scale * dS[query * p.seq_k + key], Q + query * p.dim, p.dim);
            add(dV + key * p.dim, P[query * p.seq_k + key], dO + query * p.dim, p.dim);
        }
    }
}

/* dQ, Q, O, dO: (batch, heads, seq_q, dim), dK, dV, K, V: (batch, kv_heads, seq_k, dim), lse, dlse: (batch, heads, seq_q). */
void attention_backward_cpu(float *dQ, float *dK, float *dV, const float *Q, const float *K, const float *V, const float *O,
                            const float *lse, const float *dO, const float *dlse, struct attention p)
{
    int64_t threads = cpu_threads(), scores = p.seq_q * p.seq_k, queries = p.seq_q * p.dim, keys = p.seq_k * p.dim;
    float *P = scratch(2 * (size_t)scores * sizeof *P), *dS = P + scores;
    (void)O; /* D is the sum over the keys here; from step 46 on, that of dO O */
    memset(dQ, 0, (size_t)(p.batch * p.heads * queries) * sizeof *dQ);
    memset(dK, 0, (size_t)(p.batch * p.kv_heads * keys) * sizeof *dK);
    memset(dV, 0, (size_t)(p.batch * p.kv_heads * keys) * sizeof *dV);
    for (int64_t head = 0; head < p.batch * p.heads; head++) {
        int64_t q_at = head * queries, k_at = attention_kv_head(p, head) * keys;
#pragma omp parallel for schedule(guided)
        for (int64_t query = 0; query < p.seq_q; query++) {
            int64_t at = q_at + query * p.dim, row = head * p.seq_q + query, visible = attention_visible(p, query);
            float *of_P = P + query * p.seq_k, *of_dS = dS + query * p.seq_k;
            weights(of_P, Q + at, K + k_at, lse[row], visible, p);
            differentiate(of_dS, of_P, dO + at, V + k_at, dlse ? dlse[row] : 0.0f, visible, p);
            for (int64_t key = 0; key < visible; key++)
                add(dQ + at, p.scale * of_dS[key], K + k_at + key * p.dim, p.dim);
        }
#pragma omp parallel for
        for (int64_t t = 0; t < threads; t++) /* keys of their own for each thread: nobody adds where another one does */
            add_to_keys(dK + k_at, dV + k_at, P, dS, Q + q_at, dO + q_at, p.seq_k * t / threads, p.seq_k * (t + 1) / threads, p);
    }
}

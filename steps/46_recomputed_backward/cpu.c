/*
 * Step 46, recomputed backward: step 43 without its matrices. An element of P and dS is computed again, from Q, K and lse, by
 * whoever needs it, and is gone when it has been used.
 *
 *     P = exp(scale q k - lse)     lse is that of the whole row: no maximum, no merge, no row of P
 *     dS = P (dO v - D)            D = sum of dO O: over dims, and known before any key is looked at
 *
 * Twice: a query that walks over its keys makes dQ, and a key that walks over the queries that see it makes dK and dV. So each
 * sum has one owner. Seven products in place of step 43's five: S and dP are made twice.
 *
 * Memory: D, a number a query.
 * Changed since step 43: P and dS have no memory, D comes from O, and keys go their own way.
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

/* Of a query and a key that it sees. q, dO, k, v: (dim). */
static float weight(const float *q, const float *k, float lse, struct attention p)
{
    return expf(p.scale * dot(q, k, p.dim) - lse);
}

/* dS of that pair, whose weight is P. */
static float differentiate(float P, const float *dO, const float *v, float D, struct attention p)
{
    return P * (dot(dO, v, p.dim) - D);
}

/* dQ of a query: (dim) = scale times the sum of dS k over the `keys` keys that it sees. K, V: (seq_k, dim). */
static void walk_keys(float *dQ, const float *q, const float *dO, const float *K, const float *V, float lse, float D,
                      int64_t keys, struct attention p)
{
    memset(dQ, 0, (size_t)p.dim * sizeof *dQ);
    for (int64_t key = 0; key < keys; key++) {
        const float *k = K + key * p.dim, *v = V + key * p.dim;
        add(dQ, p.scale * differentiate(weight(q, k, lse, p), dO, v, D, p), k, p.dim);
    }
}

/* dK and dV of a key: (dim) += what the queries of a head that see it ask for. Q, dO: (seq_q, dim), lse, D: (seq_q). */
static void walk_queries(float *dK, float *dV, const float *k, const float *v, const float *Q, const float *dO, const float *lse,
                         const float *D, int64_t key, struct attention p)
{
    for (int64_t query = 0; query < p.seq_q; query++) {
        const float *q = Q + query * p.dim, *o = dO + query * p.dim;
        if (key >= attention_visible(p, query))
            continue;
        float P = weight(q, k, lse[query], p);
        add(dK, p.scale * differentiate(P, o, v, D[query], p), q, p.dim);
        add(dV, P, o, p.dim);
    }
}

/* D, of all queries. */
size_t recomputed_backward_scratch(struct attention p, enum dtype dtype)
{
    (void)dtype;
    return (size_t)(p.batch * p.heads * p.seq_q) * sizeof(float);
}

/* dQ, Q, O, dO: (batch, heads, seq_q, dim), dK, dV, K, V: (batch, kv_heads, seq_k, dim), lse, dlse: (batch, heads, seq_q). */
void recomputed_backward_cpu(float *dQ, float *dK, float *dV, const float *Q, const float *K, const float *V, const float *O,
                             const float *lse, const float *dO, const float *dlse, struct attention p)
{
    int64_t rows = p.batch * p.heads * p.seq_q, keys = p.batch * p.kv_heads * p.seq_k, group = attention_group(p);
    float *D = scratch(recomputed_backward_scratch(p, FP32));
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = row * p.dim, k_at = attention_kv_head(p, row / p.seq_q) * p.seq_k * p.dim;
        D[row] = dot(dO + at, O + at, p.dim) - (dlse ? dlse[row] : 0.0f);
        walk_keys(dQ + at, Q + at, dO + at, K + k_at, V + k_at, lse[row], D[row], attention_visible(p, row % p.seq_q), p);
    }
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t row = 0; row < keys; row++) { /* of all heads of K and V */
        int64_t at = row * p.dim, first = row / p.seq_k * group * p.seq_q;
        memset(dK + at, 0, (size_t)p.dim * sizeof *dK);
        memset(dV + at, 0, (size_t)p.dim * sizeof *dV);
        for (int64_t q = first; q < first + group * p.seq_q; q += p.seq_q) /* the heads of Q that share it */
            walk_queries(dK + at, dV + at, K + at, V + at, Q + q * p.dim, dO + q * p.dim, lse + q, D + q, row % p.seq_k, p);
    }
}

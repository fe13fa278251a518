/*
 * Step 11, library attention: the same three matrices, the products by the best library there is, the softmax in vectors.
 *
 *     S = scale Q K^T        P = softmax of the rows of S        O = P V
 *
 * A library multiplies whole matrices: causal attention computes the half of S that no query sees as well, and P has zeros there.
 * (0 times a NaN or an infinity in V is NaN: here, and in no other step, what a query must not see can still spoil it.)
 *
 * Memory: S of one head, 4 seq_q seq_k bytes.
 * Changed since step 10: both products are calls, and expf is vexp.
 */
#include <math.h>

#include "blas.h"
#include "machine.h"
#include "steps.h"
#include "vexp.h"

#define LANES 64 /* partial maxima and sums side by side: enough vectors that one need not wait for another */

/* The largest of x: (count), with lanes in place of one running maximum. -inf where there is nothing else. */
static float row_max(const float *x, int64_t count)
{
    float lanes[LANES], max = -INFINITY;
    for (int lane = 0; lane < LANES; lane++)
        lanes[lane] = -INFINITY;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    for (; i < count; i++)
        max = x[i] > max ? x[i] : max;
    for (int lane = 0; lane < LANES; lane++)
        max = lanes[lane] > max ? lanes[lane] : max;
    return max;
}

/* Rows first to first + count - 1 of S become their softmax. lse: (seq_q) or NULL. */
static void softmax(float *S, float *lse, struct attention p, int64_t first, int64_t count)
{
    for (int64_t query = first; query < first + count; query++) {
        float *row = S + query * p.seq_k;
        int64_t keys = attention_visible(p, query);

        float max = row_max(row, keys);
        float base = max == -INFINITY ? 0.0f : max; /* no key with any weight: -inf - -inf would be NaN */
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t key = 0; key < keys; key++) {
            row[key] = vexp(row[key] - base);
            sum += row[key];
        }

        float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
#pragma omp simd
        for (int64_t key = 0; key < keys; key++)
            row[key] *= inverse;
        for (int64_t key = keys; key < p.seq_k; key++)
            row[key] = 0.0f;
        if (lse)
            lse[query] = base + logf(sum);
    }
}

/* O, Q: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), lse: (batch, heads, seq_q) or NULL. */
void library_attention_cpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    if (!blas_available())
        fatal("this build has no CBLAS; `make setup` installs one");
    float *S = scratch((size_t)p.seq_q * (size_t)p.seq_k * sizeof *S);
    int64_t rows = (p.seq_q + cpu_threads() - 1) / cpu_threads(); /* of every head, for a thread: none ever waits for another */
#pragma omp parallel for
    for (int64_t first = 0; first < p.seq_q; first += rows)
        for (int64_t head = 0; head < p.batch * p.heads; head++) {
            int64_t count = p.seq_q - first < rows ? p.seq_q - first : rows;
            int64_t q_at = (head * p.seq_q + first) * p.dim, k_at = attention_kv_head(p, head) * p.seq_k * p.dim;
            float *S_rows = S + first * p.seq_k;
            blas_sgemm_transposed(S_rows, Q + q_at, K + k_at, (int)count, (int)p.seq_k, (int)p.dim, p.scale);
            softmax(S, lse ? lse + head * p.seq_q : NULL, p, first, count);
            blas_sgemm(O + q_at, S_rows, V + k_at, (int)count, (int)p.dim, (int)p.seq_k);
        }
}

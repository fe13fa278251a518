/*
 * Step 12, library attention: the same three matrices, the products by the best library there is, the softmax in vectors.
 *
 *     S = scale Q K^T        P = softmax of the rows of S        O = P V
 *
 * A library multiplies whole matrices: causal attention computes the half of S that no query sees as well, and P has zeros there.
 * (0 times a NaN or an infinity in V is NaN: what a query must not see can still spoil it. docs/numerics.md says where else.)
 *
 * Memory: S of one head, 4 seq_q seq_k bytes.
 * Changed since step 11: both products are calls, and expf is vexp.
 */
#include <math.h>
#include <string.h>

#include "blas.h"
#include "machine.h"
#include "steps.h"
#include "vexp.h"

/* A row of `keys` scores becomes its softmax. Returns the logarithm of its sum, with the maximum. */
static float softmax(float *row, int64_t keys)
{
    float max = -INFINITY;
#pragma omp simd reduction(max : max)
    for (int64_t key = 0; key < keys; key++)
        max = row[key] > max ? row[key] : max;

    float base = max == -INFINITY ? 0.0f : max; /* no key with any weight: -inf - -inf would be NaN */
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t key = 0; key < keys; key++) {
        row[key] = vexp(row[key] - base);
        sum += row[key];
    }

    float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (int64_t key = 0; key < keys; key++)
        row[key] *= inverse;
    return base + logf(sum);
}

/*
 * O, Q: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), lse: (batch, heads, seq_q) or NULL. A thread has some
 * neighbouring queries of every head, and takes them from the first product to the last. scratch() has room for S of one head.
 */
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
            for (int64_t query = first; query < first + count; query++) {
                int64_t keys = attention_visible(p, query);
                float of_row = softmax(S + query * p.seq_k, keys);
                memset(S + query * p.seq_k + keys, 0, (size_t)(p.seq_k - keys) * sizeof *S);
                if (lse)
                    lse[head * p.seq_q + query] = of_row;
            }
            blas_sgemm(O + q_at, S_rows, V + k_at, (int)count, (int)p.dim, (int)p.seq_k);
        }
}

/*
 * Step 14, flash attention: tiles of queries against tiles of keys.
 *
 * A thread owns QUERIES queries of one head, one in each lane of its vectors, and walks over the keys, KEYS at a time. Per tile:
 *
 *     S = K Q^T            (KEYS, QUERIES)    Q^T is transposed once, with scale and log2(e) multiplied in
 *     P = 2^(S - m)        (KEYS, QUERIES)    m, l: (QUERIES), merged with what the tiles before left
 *     O^T = O^T c + V^T P  (dim, QUERIES)     c = 2^(m before - m)
 *
 * All that stands on the left stays in the core's caches, and O is divided by l once, at the end. Both products take K and V as
 * they lie in memory. No lane ever meets its neighbour: this is the merge of step 13, for a vector of queries and a tile of keys.
 *
 * Memory: one struct block for each thread, on its stack. K and V are read once for QUERIES queries; in step 13, for each query.
 * Changed since step 13: QUERIES queries and KEYS keys at a time, and 2^x in vectors.
 */
#include <math.h>
#include <string.h>

#include "steps.h"
#include "vexp.h"

#define QUERIES 32 /* of a tile */
#define KEYS 128    /* of a tile: S, and a tile of K or V, fit the first- or second-level cache */
#define MAX_DIM 256

/* What a thread works on. The last dimension of every array is a lane, that is, a query. */
struct block {
    float Q[MAX_DIM][QUERIES];
    float S[KEYS][QUERIES]; /* and then P, in its place */
    float O[MAX_DIM][QUERIES];
    float m[QUERIES], l[QUERIES];
    float factor[QUERIES];  /* what the tiles before count for, now that m may have risen */
} __attribute__((aligned(64)));

/* S = K Q^T. K: (keys, dim). */
static void scores(struct block *b, const float *K, int keys, int dim)
{
    for (int key = 0; key < keys; key++) {
        float sum[QUERIES] = { 0 };
        for (int i = 0; i < dim; i++)
#pragma omp simd
            for (int lane = 0; lane < QUERIES; lane++)
                sum[lane] += K[key * dim + i] * b->Q[i][lane];
        memcpy(b->S[key], sum, sizeof sum);
    }
}

/* Merge the scores of `keys` keys into m and l, put P in their place, and set factor. */
static __attribute__((noinline)) void merge_tile(struct block *b, int keys)
{
    float top[QUERIES], sum[QUERIES];
    memcpy(top, b->m, sizeof top);
    for (int key = 0; key < keys; key++)
#pragma omp simd
        for (int lane = 0; lane < QUERIES; lane++)
            top[lane] = b->S[key][lane] > top[lane] ? b->S[key][lane] : top[lane];
#pragma omp simd
    for (int lane = 0; lane < QUERIES; lane++) {
        float base = top[lane] == -INFINITY ? 0.0f : top[lane]; /* no key with any weight yet: -inf - -inf would be NaN */
        b->factor[lane] = vexp2(b->m[lane] - base);
        b->m[lane] = top[lane];
        top[lane] = base;
        sum[lane] = b->l[lane] * b->factor[lane];
    }
    for (int key = 0; key < keys; key++)
#pragma omp simd
        for (int lane = 0; lane < QUERIES; lane++) {
            float e = vexp2(b->S[key][lane] - top[lane]);
            b->S[key][lane] = e;
            sum[lane] += e;
        }
    memcpy(b->l, sum, sizeof sum);
}

/* A key that a query does not see gets the score -inf there, and so the weight 0. */
static void mask_tile(struct block *b, struct attention p, int64_t first, int64_t tile, int keys)
{
    for (int lane = 0; lane < QUERIES; lane++) {
        int64_t visible = attention_visible(p, first + lane) - tile;
        for (int64_t key = visible < 0 ? 0 : visible; key < keys; key++)
            b->S[key][lane] = -INFINITY;
    }
}

/* O^T = O^T c + V^T P. A weight of 0 counts for nothing: V may hold anything where no query sees it, and 0 * NaN is NaN. */
static void add_values(struct block *b, const float *V, int keys, int dim)
{
    for (int i = 0; i < dim; i++) {
        float sum[QUERIES] = { 0 };
        for (int key = 0; key < keys; key++)
#pragma omp simd
            for (int lane = 0; lane < QUERIES; lane++) {
                float term = V[key * dim + i] * b->S[key][lane];
                sum[lane] += b->S[key][lane] == 0.0f ? 0.0f : term;
            }
        for (int lane = 0; lane < QUERIES; lane++)
            b->O[i][lane] = b->O[i][lane] * b->factor[lane] + sum[lane];
    }
}

/* Q: (queries, dim) into the lanes of b, transposed and scaled; nothing seen yet. */
static void start(struct block *b, const float *Q, int queries, int dim, float scale)
{
    memset(b->O, 0, (size_t)dim * sizeof b->O[0]);
    for (int lane = 0; lane < QUERIES; lane++)
        b->m[lane] = -INFINITY, b->l[lane] = 0.0f;
    for (int i = 0; i < dim; i++)
        for (int lane = 0; lane < QUERIES; lane++)
            b->Q[i][lane] = lane < queries ? Q[lane * dim + i] * scale : 0.0f;
}

/* O: (queries, dim), from the lanes of b, divided by l. lse: (queries) or NULL. */
static void finish(const struct block *b, float *O, float *lse, int queries, int dim)
{
    for (int lane = 0; lane < queries; lane++) {
        float inverse = b->l[lane] == 0.0f ? 0.0f : 1.0f / b->l[lane];
        for (int i = 0; i < dim; i++)
            O[lane * dim + i] = b->O[i][lane] * inverse;
        if (lse)
            lse[lane] = b->m[lane] * VEXP_LN2 + logf(b->l[lane]);
    }
}

/* Queries first to first + queries - 1 of a head, whose keys and values are K and V: (seq_k, dim). */
static void attend(struct block *b, const float *K, const float *V, struct attention p, int64_t first, int queries)
{
    int dim = (int)p.dim;
    int64_t all = attention_visible(p, first), some = attention_visible(p, first + queries - 1); /* keys that all, and some see */
    for (int64_t tile = 0; tile < some; tile += KEYS) {
        int keys = some - tile < KEYS ? (int)(some - tile) : KEYS;
        scores(b, K + tile * dim, keys, dim);
        if (tile + keys > all)
            mask_tile(b, p, first, tile, keys);
        merge_tile(b, keys);
        add_values(b, V + tile * dim, keys, dim);
    }
}

/* O, Q: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), lse: (batch, heads, seq_q) or NULL. dim <= MAX_DIM. */
void flash_attention_cpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    int64_t blocks = (p.seq_q + QUERIES - 1) / QUERIES, heads = p.batch * p.heads;
#pragma omp parallel for schedule(dynamic)
    for (int64_t at = 0; at < heads * blocks; at++) {
        struct block b;
        int64_t head = at / blocks, first = (blocks - 1 - at % blocks) * QUERIES; /* causal: the longest first */
        int64_t row = head * p.seq_q + first, k_at = attention_kv_head(p, head) * p.seq_k * p.dim;
        int queries = p.seq_q - first < QUERIES ? (int)(p.seq_q - first) : QUERIES, dim = (int)p.dim;
        start(&b, Q + row * dim, queries, dim, p.scale * VEXP_LOG2E);
        attend(&b, K + k_at, V + k_at, p, first, queries);
        finish(&b, O + row * dim, lse ? lse + row : NULL, queries, dim);
    }
}

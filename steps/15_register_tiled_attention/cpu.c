/*
 * Step 15, register-tiled attention: step 14, with products whose sums stay in registers.
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
 * Changed since step 14: ROWS rows of a product at a time, so that a vector that was loaded is used ROWS times.
 */
#include <math.h>
#include <string.h>

#include "steps.h"
#include "vexp.h"

/*
 * The products keep ROWS x QUERIES sums in ROWS x VECTORS registers, and leave some for the factors: there are 32 registers with
 * AVX-512, and 16 otherwise. Every vector that is loaded is then used ROWS times, every number VECTORS times.
 */
#if defined(__AVX512F__)
#define WIDTH 16 /* floats in a register */
#define ROWS 8
#elif defined(__AVX__)
#define WIDTH 8
#define ROWS 4
#else
#define WIDTH 4
#define ROWS 4
#endif
#define VECTORS 3
#define QUERIES (VECTORS * WIDTH)
#define KEYS 128    /* of a tile: S, and a tile of K or V, fit the first- or second-level cache */
#define MAX_DIM 256

typedef float vector __attribute__((vector_size(4 * WIDTH), may_alias));

/* What a thread works on. The last dimension of every array is a lane, that is, a query. */
struct block {
    float Q[MAX_DIM][QUERIES];
    float S[KEYS][QUERIES]; /* and then P, in its place */
    float O[MAX_DIM][QUERIES];
    float m[QUERIES], l[QUERIES];
    float factor[QUERIES];  /* what the tiles before count for, now that m may have risen */
} __attribute__((aligned(64)));

/*
 * `rows` rows of C = A B, or where factor is not NULL of C = C factor + A B. B: (depth, QUERIES), C: (rows, QUERIES), factor:
 * (QUERIES). Row r of A begins at A + r * row_stride, and its elements are depth_stride apart. rows is a constant, ROWS or 1;
 * factor is two things, a pointer and whether there is one: test it with if, for a ?: of vectors chooses lane by lane.
 *
 * On the way it prefetches as many floats as A has, from `next` on, `rows` of them for each i: they are the next tile.
 */
static inline __attribute__((always_inline)) void product_rows(const int rows, vector *C, const float *A, int64_t row_stride,
                                                               int64_t depth_stride, const vector *B, int depth,
                                                               const vector *factor, const float *next)
{
    vector sum[ROWS][VECTORS] = { 0 };
#pragma GCC unroll 2
    for (int i = 0; i < depth; i++) {
        __builtin_prefetch(next + i * rows, 0, 2);
#pragma GCC unroll 8
        for (int row = 0; row < rows; row++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++)
                sum[row][v] += A[row * row_stride + i * depth_stride] * B[i * VECTORS + v];
    }
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            if (factor)
                sum[row][v] += C[row * VECTORS + v] * factor[v];
            C[row * VECTORS + v] = sum[row][v];
        }
}

/*
 * The same for any number of rows. A is a tile of K or V, rows * depth floats in one piece, and the next tile lies behind it. Not
 * inlined: on its own, the compiler keeps all of `sum` in registers; as a part of something larger, it does not.
 */
static __attribute__((noinline)) void product(void *C, int rows, const float *A, int64_t row_stride, int64_t depth_stride,
                                              const void *B, int depth, const void *factor)
{
    const float *next = A + (int64_t)rows * depth;
    int row = 0;
    for (; row + ROWS <= rows; row += ROWS)
        product_rows(ROWS, (vector *)C + row * VECTORS, A + row * row_stride, row_stride, depth_stride, B, depth, factor,
                     next + row * depth);
    for (; row < rows; row++)
        product_rows(1, (vector *)C + row * VECTORS, A + row * row_stride, 0, depth_stride, B, depth, factor, next + row * depth);
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

/* Whether x: (count) has no infinity and no NaN. */
static bool all_finite(const float *x, int64_t count)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++)
        sum += 0.0f * x[i];
    return sum == 0.0f;
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
        product(b->S[0], keys, K + tile * dim, dim, 1, b->Q[0], dim, NULL);
        if (tile + keys > all)
            mask_tile(b, p, first, tile, keys);
        merge_tile(b, keys);
        if (tile + keys <= all || all_finite(V + tile * dim, (int64_t)keys * dim))
            product(b->O[0], dim, V + tile * dim, 1, dim, b->S[0], keys, b->factor);
        else
            add_values(b, V + tile * dim, keys, dim);
    }
}

/* O, Q: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), lse: (batch, heads, seq_q) or NULL. dim <= MAX_DIM. */
void register_tiled_attention_cpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
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

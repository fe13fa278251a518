/*
 * Step 10, flash attention: tiles of queries against tiles of keys.
 *
 * A thread owns QUERIES queries of one head, one in each lane of its vectors, and walks over the keys KEYS at a time. Per tile:
 *
 *     S = K Q^T            (KEYS, QUERIES)    Q^T is transposed once, with scale and log2(e) multiplied in
 *     P = 2^(S - m)        (KEYS, QUERIES)    m, l: (QUERIES), merged with what the tiles before left
 *     O^T = O^T c + V^T P  (dim, QUERIES)     c = 2^(m before - m)
 *
 * What stands on the left stays in the core's cache, and O is divided by l once, at the end. Both products take K and V as they lie
 * in memory, and no lane ever meets its neighbour: maximum, sum and rescaling are the merge of step 09, for a vector of queries.
 *
 * Memory: a struct block for each thread, on its stack. K and V are read once for QUERIES queries, where step 09 reads them once for each.
 * Changed since step 09: QUERIES rows at a time instead of one, KEYS keys instead of one, and products that add up in registers.
 */
#include <math.h>
#include <string.h>

#include "common.h"
#include "half.h"
#include "steps.h"

/*
 * The products work on ROWS x QUERIES numbers at a time, held in registers: as many as there are, less what the factors need. Every
 * factor that is loaded is then used ROWS or VECTORS times.
 */
#if defined(__AVX512F__)
#define WIDTH 16 /* floats in a vector register */
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
#ifndef KEYS
#define KEYS 128    /* keys in a tile */
#endif
#define MAX_DIM 256

typedef float vector __attribute__((vector_size(4 * WIDTH)));

/* What a thread works on. The last dimension of every array is a lane, that is a query. */
struct block {
    float Q[MAX_DIM][QUERIES];
    float S[KEYS][QUERIES]; /* and then P, in its place */
    float O[MAX_DIM][QUERIES];
    float m[QUERIES], l[QUERIES];
    float c[QUERIES];       /* what the tile before is worth, now that m may have risen */
} __attribute__((aligned(64)));

/*
 * `rows` rows of C = A B, or where c is not NULL of C = C c + A B. B: (depth, QUERIES), C: (rows, QUERIES), c: (QUERIES); row r of A
 * begins at A + r * row_stride, and its elements are depth_stride apart. rows is a constant wherever this is inlined.
 *
 * On the way, as many floats as A has are requested from memory, from `next` on: they will be wanted soon.
 */
static inline __attribute__((always_inline)) void product_of(const int rows, float *C, const float *A, int64_t row_stride,
                                                             int64_t depth_stride, const float *B, int depth, const float *c,
                                                             const float *next)
{
    vector sum[ROWS][VECTORS] = { 0 };
    for (int i = 0; i < depth; i++) {
        __builtin_prefetch(next + i * rows, 0, 2);
#pragma GCC unroll 8
        for (int row = 0; row < rows; row++) {
            float a = A[row * row_stride + i * depth_stride];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++)
                sum[row][v] += a * ((const vector *)B)[i * VECTORS + v];
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            vector *to = (vector *)C + row * VECTORS + v;
            *to = c ? *to * ((const vector *)c)[v] + sum[row][v] : sum[row][v];
        }
}

/* Not inlined: on its own, the compiler keeps all of `sum` in registers; as a part of something larger, it does not. */
static __attribute__((noinline)) void product_rows(float *C, const float *A, int64_t row_stride, int64_t depth_stride, const float *B,
                                                   int depth, const float *c, const float *next)
{
    product_of(ROWS, C, A, row_stride, depth_stride, B, depth, c, next);
}

static __attribute__((noinline)) void product_row(float *C, const float *A, int64_t depth_stride, const float *B, int depth,
                                                  const float *c, const float *next)
{
    product_of(1, C, A, 0, depth_stride, B, depth, c, next);
}

/* The same for any number of rows. A is a tile of K or V, rows * depth floats in one piece, and the next tile lies behind it. */
static void product(float *C, int rows, const float *A, int64_t row_stride, int64_t depth_stride, const float *B, int depth,
                    const float *c)
{
    const float *next = A + (int64_t)rows * depth;
    int row = 0;
    for (; row + ROWS <= rows; row += ROWS)
        product_rows(C + row * QUERIES, A + row * row_stride, row_stride, depth_stride, B, depth, c, next + row * depth);
    for (; row < rows; row++)
        product_row(C + row * QUERIES, A + row * row_stride, depth_stride, B, depth, c, next + row * depth);
}

#define LOG2E 0x1.715476p+0f
#define LN2 0x1.62e43p-1f
#define ROUND (0x1.8p23f + 127.0f) /* a sum near this has no bits for a fraction; its low 8 bits are then n + 127 */

/* 2^x for x <= 0, as common/vexp.h has e^x, to 2.1e-7 relative: with n = round(x), 2^n is a float's exponent, and 2^(x-n) a polynomial. */
static inline float exp2_lane(float x)
{
    x = x < -127.0f ? -127.0f : x;
    float shifted = x + ROUND;
    float r = x - (shifted - ROUND);
    float p = 1.0f + r * (0x1.62e42ap-1f + r * (0x1.ebf9c2p-3f + r * (0x1.c6b6dcp-5f + r * (0x1.3ce8bep-7f + r * 0x1.5bd88p-10f))));
    return p * float_of_bits(bits_of_float(shifted) << 23);
}

/* Merge the scores of `keys` keys into m and l, put P in their place, and set c. */
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
        float base = top[lane] == -INFINITY ? 0.0f : top[lane];
        b->c[lane] = exp2_lane(b->m[lane] - base);
        b->m[lane] = top[lane];
        top[lane] = base;
        sum[lane] = 0.0f;
    }
    for (int key = 0; key < keys; key++)
#pragma omp simd
        for (int lane = 0; lane < QUERIES; lane++) {
            float e = exp2_lane(b->S[key][lane] - top[lane]);
            b->S[key][lane] = e;
            sum[lane] += e;
        }
#pragma omp simd
    for (int lane = 0; lane < QUERIES; lane++)
        b->l[lane] = b->l[lane] * b->c[lane] + sum[lane];
}

/* Whether x: (count) has no infinity and no NaN: 0 times one of those is not 0. */
static bool all_finite(const float *x, int64_t count)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++)
        sum += 0.0f * x[i];
    return sum == 0.0f;
}

/* O^T = O^T c + V^T P for the first seen[lane] keys of V: (keys, dim) in each lane: the slow way, that never touches the others. */
static void product_seen(struct block *b, const float *V, const int *seen, int dim)
{
    for (int i = 0; i < dim; i++)
        for (int lane = 0; lane < QUERIES; lane++) {
            float sum = 0.0f;
            for (int key = 0; key < seen[lane]; key++)
                sum += V[key * dim + i] * b->S[key][lane];
            b->O[i][lane] = b->O[i][lane] * b->c[lane] + sum;
        }
}

/*
 * A tile that not all queries of the block see whole: `seen[lane]` of its keys, 0 to `keys`. Their scores become -inf, so that their
 * weight is 0. What a query must not see may be anything, though, and 0 * NaN is NaN: then the slow product.
 */
static void masked_tile(struct block *b, const float *V, const int *seen, int keys, int dim)
{
    for (int lane = 0; lane < QUERIES; lane++)
        for (int key = seen[lane]; key < keys; key++)
            b->S[key][lane] = -INFINITY;
    merge_tile(b, keys);
    if (all_finite(V, (int64_t)keys * dim))
        product(b->O[0], dim, V, 1, dim, b->S[0], keys, b->c);
    else
        product_seen(b, V, seen, dim);
}

/* Q: (queries, dim) into the lanes of b, transposed and scaled; nothing seen yet. */
static void start(struct block *b, const float *Q, int queries, int dim, float scale)
{
    for (int lane = 0; lane < QUERIES; lane++) {
        for (int i = 0; i < dim; i++) {
            b->Q[i][lane] = lane < queries ? Q[lane * dim + i] * scale : 0.0f;
            b->O[i][lane] = 0.0f;
        }
        b->m[lane] = -INFINITY;
        b->l[lane] = 0.0f;
    }
}

/* O: (queries, dim), from the lanes of b, divided by l. lse: (queries) or NULL. */
static void finish(const struct block *b, float *O, float *lse, int queries, int dim)
{
    for (int lane = 0; lane < queries; lane++) {
        float weight = b->l[lane] == 0.0f ? 0.0f : 1.0f / b->l[lane];
        for (int i = 0; i < dim; i++)
            O[lane * dim + i] = b->O[i][lane] * weight;
        if (lse)
            lse[lane] = b->m[lane] * LN2 + logf(b->l[lane]);
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
        if (tile + keys <= all) {
            merge_tile(b, keys);
            product(b->O[0], dim, V + tile * dim, 1, dim, b->S[0], keys, b->c);
        } else {
            int seen[QUERIES];
            for (int lane = 0; lane < QUERIES; lane++) {
                int64_t visible = attention_visible(p, lane < queries ? first + lane : first) - tile;
                seen[lane] = visible < 0 ? 0 : visible < keys ? (int)visible : keys;
            }
            masked_tile(b, V + tile * dim, seen, keys, dim);
        }
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
        int64_t row = head * p.seq_q + first, k_at = head / (p.heads / p.kv_heads) * p.seq_k * p.dim;
        int queries = p.seq_q - first < QUERIES ? (int)(p.seq_q - first) : QUERIES, dim = (int)p.dim;
        start(&b, Q + row * dim, queries, dim, p.scale * LOG2E);
        attend(&b, K + k_at, V + k_at, p, first, queries);
        finish(&b, O + row * dim, lse ? lse + row : NULL, queries, dim);
    }
}

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
 */
static inline __attribute__((always_inline)) void product_of(const int rows, float *C, const float *A, int64_t row_stride,
                                                             int64_t depth_stride, const float *B, int depth, const float *c)
{
    vector sum[ROWS][VECTORS] = { 0 };
    for (int i = 0; i < depth; i++)
#pragma GCC unroll 8
        for (int row = 0; row < rows; row++) {
            float a = A[row * row_stride + i * depth_stride];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++)
                sum[row][v] += a * ((const vector *)B)[i * VECTORS + v];
        }
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            vector *to = (vector *)C + row * VECTORS + v;
            *to = c ? *to * ((const vector *)c)[v] + sum[row][v] : sum[row][v];
        }
}

/* Not inlined: on their own, the compiler keeps all of `sum` in registers; as a part of something larger, it does not. */
static __attribute__((noinline)) void product_rows(float *C, const float *A, int64_t row_stride, int64_t depth_stride, const float *B,
                                                   int depth, const float *c)
{
    product_of(ROWS, C, A, row_stride, depth_stride, B, depth, c);
}

static __attribute__((noinline)) void product_row(float *C, const float *A, int64_t depth_stride, const float *B, int depth,
                                                  const float *c)
{
    product_of(1, C, A, 0, depth_stride, B, depth, c);
}

/* The same for any number of rows. */
static void product(float *C, int rows, const float *A, int64_t row_stride, int64_t depth_stride, const float *B, int depth,
                    const float *c)
{
    int row = 0;
    for (; row + ROWS <= rows; row += ROWS)
        product_rows(C + row * QUERIES, A + row * row_stride, row_stride, depth_stride, B, depth, c);
    for (; row < rows; row++)
        product_row(C + row * QUERIES, A + row * row_stride, depth_stride, B, depth, c);
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

/* One block: queries first .. first + queries - 1 of one head. q, o: (seq_q, dim), k, v: (seq_k, dim), lse: (seq_q) or NULL. */
static void attend(struct block *b, float *o, float *lse, const float *q, const float *k, const float *v, struct attention p,
                   int64_t first, int queries)
{
    int dim = (int)p.dim;
    for (int i = 0; i < dim; i++)
        for (int lane = 0; lane < QUERIES; lane++) {
            b->Q[i][lane] = lane < queries ? q[(first + lane) * dim + i] * (p.scale * LOG2E) : 0.0f;
            b->O[i][lane] = 0.0f;
        }
    for (int lane = 0; lane < QUERIES; lane++) {
        b->m[lane] = -INFINITY;
        b->l[lane] = 0.0f;
    }

    int64_t all = attention_visible(p, first), some = attention_visible(p, first + queries - 1);
    for (int64_t tile = 0; tile < some; tile += KEYS) {
        int keys = some - tile < KEYS ? (int)(some - tile) : KEYS;
        product(b->S[0], keys, k + tile * dim, dim, 1, b->Q[0], dim, NULL);
        for (int64_t key = all > tile ? all : tile; key < tile + keys; key++) /* that not all of these queries see */
            for (int lane = 0; lane < queries; lane++)
                if (key >= attention_visible(p, first + lane))
                    b->S[key - tile][lane] = -INFINITY;
        merge_tile(b, keys);
        product(b->O[0], dim, v + tile * dim, 1, dim, b->S[0], keys, b->c);
    }

    for (int lane = 0; lane < queries; lane++) {
        float weight = b->l[lane] == 0.0f ? 0.0f : 1.0f / b->l[lane];
        for (int i = 0; i < dim; i++)
            o[(first + lane) * dim + i] = b->O[i][lane] * weight;
        if (lse)
            lse[first + lane] = b->m[lane] * LN2 + logf(b->l[lane]);
    }
}

/* O, Q: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), lse: (batch, heads, seq_q) or NULL. dim <= MAX_DIM. */
void flash_attention_cpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    int64_t blocks = (p.seq_q + QUERIES - 1) / QUERIES, heads = p.batch * p.heads;
#pragma omp parallel for schedule(dynamic)
    for (int64_t at = 0; at < heads * blocks; at++) {
        struct block b;
        int64_t head = at / blocks, first = at % blocks * QUERIES, left = p.seq_q - first;
        int64_t kv = head / (p.heads / p.kv_heads); /* heads of a batch share kv_heads in order, and so do batches */
        attend(&b, O + head * p.seq_q * p.dim, lse ? lse + head * p.seq_q : NULL, Q + head * p.seq_q * p.dim,
               K + kv * p.seq_k * p.dim, V + kv * p.seq_k * p.dim, p, first, left < QUERIES ? (int)left : QUERIES);
    }
}

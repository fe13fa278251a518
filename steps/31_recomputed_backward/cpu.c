/*
 * Step 31, recomputed backward: step 30 without its matrices. Tiles of P are computed again, when they are needed, from Q, K and
 * lse, and are gone when they have been used.
 *
 *     S = K Q^T               (KEYS, QUERIES)   as in step 14: a query a lane; scale and log2(e) multiplied into Q
 *     P = 2^(S - lse)         (KEYS, QUERIES)   no maximum and no merge: lse is that of the whole row
 *     dP = V dO^T             (KEYS, QUERIES)
 *     dS = P (dP - D)         (KEYS, QUERIES)   D = sum of dO O, known before the first tile
 *     dQ^T += K^T dS          (dim, QUERIES)    stays with the queries
 *     dV += P dO              (KEYS, dim)       goes to the keys: so the lanes are dims here,
 *     dK += dS Q              (KEYS, dim)       and P and dS give the numbers that are multiplied with them, as they lie
 *
 * A thread owns some blocks of queries of all heads that share a head of K and V, and walks over the keys for each. dK and dV are
 * sums over queries: it adds to sums of its own, which are added up at the end, always in the same order.
 *
 * Memory: sums of dK and dV, a pair for each head of K and V, or more where there are more threads than heads.
 * Changed since step 30: products by tiles, P recomputed, D from O.
 */
#include <math.h>
#include <string.h>

#include "floats.h"
#include "machine.h"
#include "steps.h"
#include "vexp.h"

/* Products keep ROWS x VECTORS sums in registers, of which there are 32 with AVX-512, and 16 otherwise (step 14). */
#define ROWS (WIDTH == 16 ? 8 : 4)
#define VECTORS 2 /* of a strip of columns */
#define STRIP (VECTORS * WIDTH)
#define QUERIES (2 * STRIP) /* of a block */
#define KEYS 64             /* of a tile */
#define MAX_DIM 256

typedef float vector __attribute__((vector_size(4 * WIDTH), may_alias, aligned(4)));

/* What a thread works on. `lane` is a query. */
struct block {
    float Q_lanes[MAX_DIM][QUERIES], dO_lanes[MAX_DIM][QUERIES]; /* transposed; Q scaled */
    float Q[QUERIES][MAX_DIM], dO[QUERIES][MAX_DIM];             /* as they are, filled up with zeros to whole strips */
    float P[KEYS][QUERIES], dS[KEYS][QUERIES];                   /* of a tile; dS is dP before */
    float dQ[MAX_DIM][QUERIES];                                  /* transposed */
    float lse[QUERIES], D[QUERIES];                              /* lse of base 2: +inf for a query that sees no key */
} __attribute__((aligned(64)));

/* `rows` rows of a strip of C += A B, or C = A B. rows is a constant; other arguments as below. */
static inline __attribute__((always_inline)) void strip_rows(const int rows, float *C, int64_t c_stride, const float *A,
                                                             int64_t row_stride, int64_t depth_stride, const float *B,
                                                             int64_t b_stride, int depth, bool add)
{
    vector sum[ROWS][VECTORS] = { 0 };
#pragma GCC unroll 2
    for (int i = 0; i < depth; i++)
#pragma GCC unroll 8
        for (int row = 0; row < rows; row++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++)
                sum[row][v] += A[row * row_stride + i * depth_stride] * *(const vector *)(B + i * b_stride + v * WIDTH);
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            vector *c = (vector *)(C + row * c_stride + v * WIDTH);
            if (add)
                sum[row][v] += *c;
            *c = sum[row][v];
        }
}

/*
 * C = A B, or if `add` C += A B. C: (rows, columns), B: (depth, columns), their rows c_stride and b_stride apart; columns: whole
 * strips. Row r of A begins at A + r * row_stride, and its elements are depth_stride apart. Not inlined: see step 14.
 */
static __attribute__((noinline)) void product(float *C, int64_t c_stride, int rows, int64_t columns, const float *A,
                                              int64_t row_stride, int64_t depth_stride, const float *B, int64_t b_stride,
                                              int depth, bool add)
{
    for (int64_t at = 0; at < columns; at += STRIP) {
        int row = 0;
        for (; row + ROWS <= rows; row += ROWS)
            strip_rows(ROWS, C + row * c_stride + at, c_stride, A + row * row_stride, row_stride, depth_stride, B + at, b_stride,
                       depth, add);
        for (; row < rows; row++)
            strip_rows(1, C + row * c_stride + at, c_stride, A + row * row_stride, 0, depth_stride, B + at, b_stride, depth, add);
    }
}

/* dim, filled up to whole strips. */
static int64_t width_of(int64_t dim)
{
    return (dim + STRIP - 1) / STRIP * STRIP;
}

/* Queries first ... first + queries - 1 into the lanes of b. Q, O, dO: (queries, dim), lse, dlse: (queries). */
static void start(struct block *b, const float *Q, const float *O, const float *dO, const float *lse, const float *dlse,
                  int queries, struct attention p)
{
    memset(b->Q, 0, sizeof b->Q), memset(b->dO, 0, sizeof b->dO);
    memset(b->dQ, 0, (size_t)p.dim * sizeof b->dQ[0]);
    for (int lane = 0; lane < QUERIES; lane++) {
        float D = 0.0f;
        bool none = lane >= queries || lse[lane] == -INFINITY;
        for (int64_t i = 0; i < p.dim && lane < queries; i++) {
            b->Q[lane][i] = Q[lane * p.dim + i];
            b->dO[lane][i] = dO[lane * p.dim + i];
            D += dO[lane * p.dim + i] * O[lane * p.dim + i];
        }
        b->lse[lane] = none ? INFINITY : lse[lane] * VEXP_LOG2E;
        b->D[lane] = lane < queries && dlse ? D - dlse[lane] : D;
    }
    for (int64_t i = 0; i < p.dim; i++)
        for (int lane = 0; lane < QUERIES; lane++) {
            b->Q_lanes[i][lane] = b->Q[lane][i] * (p.scale * VEXP_LOG2E);
            b->dO_lanes[i][lane] = b->dO[lane][i];
        }
}

/* P, from the scores in its place; 0 where a lane does not see a key. `tile`, `first`: the first key, and the query of lane 0. */
static __attribute__((noinline)) void weights(struct block *b, struct attention p, int64_t first, int64_t tile, int keys)
{
    for (int key = 0; key < keys; key++)
#pragma omp simd
        for (int lane = 0; lane < QUERIES; lane++)
            b->P[key][lane] = vexp2(b->P[key][lane] - b->lse[lane]);
    if (tile + keys <= attention_visible(p, first))
        return;
    for (int lane = 0; lane < QUERIES; lane++) {
        int64_t visible = attention_visible(p, first + lane) - tile;
        for (int64_t key = visible < 0 ? 0 : visible; key < keys; key++)
            b->P[key][lane] = 0.0f;
    }
}

/* dS, from dP in its place. */
static __attribute__((noinline)) void differentiate(struct block *b, int keys)
{
    for (int key = 0; key < keys; key++)
#pragma omp simd
        for (int lane = 0; lane < QUERIES; lane++)
            b->dS[key][lane] = b->P[key][lane] * (b->dS[key][lane] - b->D[lane]);
}

/* What the lanes of b, of which the first is query `first`, add to dQ, dK and dV. K, V: (seq_k, dim), sums: (seq_k, width). */
static void go_back(struct block *b, float *sum_dK, float *sum_dV, const float *K, const float *V, struct attention p,
                    int64_t first, int queries)
{
    int64_t dim = p.dim, width = width_of(dim), some = attention_visible(p, first + queries - 1);
    for (int64_t tile = 0; tile < some; tile += KEYS) {
        int keys = some - tile < KEYS ? (int)(some - tile) : KEYS;
        const float *k = K + tile * dim, *v = V + tile * dim;
        product(b->P[0], QUERIES, keys, QUERIES, k, dim, 1, b->Q_lanes[0], QUERIES, (int)dim, false);
        weights(b, p, first, tile, keys);
        product(b->dS[0], QUERIES, keys, QUERIES, v, dim, 1, b->dO_lanes[0], QUERIES, (int)dim, false);
        differentiate(b, keys);
        product(b->dQ[0], QUERIES, (int)dim, QUERIES, k, 1, dim, b->dS[0], QUERIES, keys, true);
        product(sum_dV + tile * width, width, keys, width, b->P[0], QUERIES, 1, b->dO[0], MAX_DIM, QUERIES, true);
        product(sum_dK + tile * width, width, keys, width, b->dS[0], QUERIES, 1, b->Q[0], MAX_DIM, QUERIES, true);
    }
}

/* Shares of a head of K and V: so many that each thread has one. */
static int64_t shares_of(struct attention p)
{
    int64_t heads = p.batch * p.kv_heads;
    return (cpu_threads() + heads - 1) / heads;
}

size_t recomputed_backward_scratch(struct attention p, enum dtype dtype)
{
    (void)dtype; /* sums are floats, whatever the type */
    return 2 * (size_t)(p.batch * p.kv_heads * shares_of(p) * p.seq_k * width_of(p.dim)) * sizeof(float);
}

/* dK = scale times the sum of its shares, and dV likewise. sums: (shares, 2, seq_k, width), dK, dV: (seq_k, dim). */
static void add_up(float *dK, float *dV, const float *sums, int64_t shares, struct attention p)
{
    int64_t width = width_of(p.dim), size = p.seq_k * width;
    for (int64_t key = 0; key < p.seq_k; key++)
        for (int64_t i = 0; i < p.dim; i++) {
            float of_dK = 0.0f, of_dV = 0.0f;
            for (int64_t share = 0; share < shares; share++) {
                of_dK += sums[2 * share * size + key * width + i];
                of_dV += sums[(2 * share + 1) * size + key * width + i];
            }
            dK[key * p.dim + i] = p.scale * of_dK;
            dV[key * p.dim + i] = of_dV;
        }
}

/* dQ, Q, O, dO: (batch, heads, seq_q, dim), dK, dV, K, V: (batch, kv_heads, seq_k, dim), lse, dlse: (batch, heads, seq_q). */
void recomputed_backward_cpu(float *dQ, float *dK, float *dV, const float *Q, const float *K, const float *V, const float *O,
                             const float *lse, const float *dO, const float *dlse, struct attention p)
{
    int64_t heads = p.batch * p.kv_heads, shares = shares_of(p), group = attention_group(p), size = p.seq_k * width_of(p.dim);
    int64_t blocks = (p.seq_q + QUERIES - 1) / QUERIES; /* of a head of Q */
    float *sums = scratch(recomputed_backward_scratch(p, FP32));
#pragma omp parallel for schedule(dynamic)
    for (int64_t task = 0; task < heads * shares; task++) {
        struct block b;
        float *sum = sums + task * 2 * size;
        memset(sum, 0, 2 * (size_t)size * sizeof *sum);
        for (int64_t at = task % shares; at < group * blocks; at += shares) {
            int64_t head = task / shares * group + at / blocks, first = at % blocks * QUERIES, row = head * p.seq_q + first;
            int queries = p.seq_q - first < QUERIES ? (int)(p.seq_q - first) : QUERIES;
            int64_t k_at = task / shares * p.seq_k * p.dim, q_at = row * p.dim;
            start(&b, Q + q_at, O + q_at, dO + q_at, lse + row, dlse ? dlse + row : NULL, queries, p);
            go_back(&b, sum, sum + size, K + k_at, V + k_at, p, first, queries);
            for (int lane = 0; lane < queries; lane++)
                for (int64_t i = 0; i < p.dim; i++)
                    dQ[q_at + lane * p.dim + i] = p.scale * b.dQ[i][lane];
        }
    }
#pragma omp parallel for
    for (int64_t kv = 0; kv < heads; kv++)
        add_up(dK + kv * p.seq_k * p.dim, dV + kv * p.seq_k * p.dim, sums + kv * shares * 2 * size, shares, p);
}

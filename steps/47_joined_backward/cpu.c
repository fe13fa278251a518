/*
 * Step 47, joined backward: a tile of P and dS, computed again from Q, K and lse, serves all three gradients before it is gone.
 *
 *     S = K Q^T               (KEYS, QUERIES)   as in step 15: a query a lane; scale and log2(e) multiplied into Q
 *     P = 2^(S - lse)         (KEYS, QUERIES)   no maximum and no merge: lse is that of the whole row
 *     dP = V dO^T             (KEYS, QUERIES)
 *     dS = P (dP - D)         (KEYS, QUERIES)   D = sum of dO O, known before the first tile
 *     dQ^T += K^T dS          (dim, QUERIES)    stays with the queries
 *     dV += P dO              (KEYS, dim)       goes to the keys: so the lanes are dims here,
 *     dK += dS Q              (KEYS, dim)       and P and dS give the numbers that are multiplied with them, as they lie
 *
 * A thread owns some blocks of queries of all heads that share a head of K and V, and walks over the keys for each. A block is
 * as large as the second-level cache allows: what it passes by, K, V and the sums of dK and dV, lies further away. dK and dV are
 * sums over queries: it adds to sums of its own, which are added up at the end, always in the same order.
 *
 * Memory: a block a thread; sums of dK and dV, a pair for each head of K and V, or more where there are more threads than heads.
 * Changed since step 46: products by tiles, and one walk in place of two.
 */
#include <math.h>
#include <string.h>

#include "floats.h"
#include "machine.h"
#include "steps.h"
#include "vexp.h"

/* Products keep ROWS x VECTORS sums in registers, of which there are 32 with AVX-512, and 16 otherwise (step 15). */
#define ROWS (WIDTH == 16 ? 8 : 4)
#define VECTORS 2 /* of a strip of columns */
#define STRIP (VECTORS * WIDTH)
#define QUERIES (8 * STRIP) /* of a block, at most */
#define KEYS 64             /* of a tile */
#define MAX_DIM 256
#define PAD 16              /* floats behind a row: rows a power of two apart would share few places of the first-level cache */
#define LANES (QUERIES + PAD)
#define DIMS (MAX_DIM + PAD)

typedef float vector __attribute__((vector_size(4 * WIDTH), may_alias, aligned(4)));

/* What a thread works on. `lane` is a query; lanes behind the last query, up to whole strips, are zeros. */
struct block {
    float Q_lanes[MAX_DIM][LANES], dO_lanes[MAX_DIM][LANES]; /* transposed; Q scaled */
    float Q[QUERIES][DIMS], dO[QUERIES][DIMS];               /* as they are, filled up with zeros to whole strips */
    float K[KEYS][DIMS], V[KEYS][DIMS];                      /* of a tile, floats whatever the type */
    float P[KEYS][LANES], dS[KEYS][LANES];                   /* of a tile; dS is dP before */
    float dQ[MAX_DIM][LANES];                                /* transposed */
    float lse[QUERIES], D[QUERIES];                          /* lse of base 2: +inf for a query that sees no key */
    int64_t first;                                           /* the query of lane 0 */
    int queries, lanes;
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
 * strips. Row r of A begins at A + r * row_stride, and its elements are depth_stride apart. Not inlined: see step 15.
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

/* to: (all), floats = x: (rows, dim), of any type, and zeros behind the last row and column. */
static void load(float (*to)[DIMS], int all, const void *x, int rows, int64_t dim, enum dtype dtype)
{
    for (int row = 0; row < all; row++) {
        memset(to[row], 0, (size_t)width_of(dim) * sizeof(float));
        if (row < rows)
            floats_of(to[row], element_at(x, row * dim, dtype), dim, dtype);
    }
}

/* The queries of b into its lanes. Q, O, dO: (queries, dim), lse, dlse: (queries). */
static void start(struct block *b, const void *Q, const void *O, const void *dO, const float *lse, const float *dlse,
                  struct attention p, enum dtype dtype)
{
    b->lanes = (int)width_of(b->queries);
    memset(b->dQ, 0, (size_t)p.dim * sizeof b->dQ[0]);
    load(b->Q, b->lanes, Q, b->queries, p.dim, dtype);
    load(b->dO, b->lanes, dO, b->queries, p.dim, dtype);
    for (int lane = 0; lane < b->lanes; lane++) {
        bool query = lane < b->queries;
        float D = query && dlse ? -dlse[lane] : 0.0f, o[1][DIMS];
        load(o, 1, element_at(O, lane * p.dim, dtype), query, p.dim, dtype);
        for (int64_t i = 0; i < p.dim; i++)
            D += b->dO[lane][i] * o[0][i];
        b->D[lane] = D;
        b->lse[lane] = query && lse[lane] > -INFINITY ? lse[lane] * VEXP_LOG2E : INFINITY;
    }
    for (int64_t i = 0; i < p.dim; i++)
        for (int lane = 0; lane < b->lanes; lane++) {
            b->Q_lanes[i][lane] = b->Q[lane][i] * (p.scale * VEXP_LOG2E);
            b->dO_lanes[i][lane] = b->dO[lane][i];
        }
}

/* P, from the scores in its place, for lanes from `from` on; 0 where a lane does not see a key. `tile`: the first key. */
static __attribute__((noinline)) void weights(struct block *b, struct attention p, int64_t tile, int keys, int from)
{
    for (int key = 0; key < keys; key++)
#pragma omp simd
        for (int lane = from; lane < b->lanes; lane++)
            b->P[key][lane] = vexp2(b->P[key][lane] - b->lse[lane]);
    for (int lane = from; lane < b->lanes && tile + keys > attention_visible(p, b->first + lane); lane++) {
        int64_t visible = attention_visible(p, b->first + lane) - tile;
        for (int64_t key = visible < 0 ? 0 : visible; key < keys; key++)
            b->P[key][lane] = 0.0f;
    }
}

/* dS, from dP in its place. */
static __attribute__((noinline)) void differentiate(struct block *b, int keys, int from)
{
    for (int key = 0; key < keys; key++)
#pragma omp simd
        for (int lane = from; lane < b->lanes; lane++)
            b->dS[key][lane] = b->P[key][lane] * (b->dS[key][lane] - b->D[lane]);
}

/* Lanes in front, whole strips, that see no key from `tile` on. */
static int blind(const struct block *b, struct attention p, int64_t tile)
{
    int lane = 0;
    while (lane + STRIP < b->lanes && attention_visible(p, b->first + lane + STRIP - 1) <= tile)
        lane += STRIP;
    return lane;
}

/* What the queries of b add to dQ, dK and dV. K, V: (seq_k, dim), sums: (seq_k, width). */
static void go_back(struct block *b, float *sum_dK, float *sum_dV, const void *K, const void *V, struct attention p,
                    enum dtype dtype)
{
    int64_t dim = p.dim, width = width_of(dim), some = attention_visible(p, b->first + b->queries - 1);
    for (int64_t tile = 0; tile < some; tile += KEYS) {
        int keys = some - tile < KEYS ? (int)(some - tile) : KEYS, from = blind(b, p, tile), lanes = b->lanes - from;
        float *P = b->P[0] + from, *dS = b->dS[0] + from, *dK = sum_dK + tile * width, *dV = sum_dV + tile * width;
        load(b->K, keys, element_at(K, tile * dim, dtype), keys, dim, dtype);
        load(b->V, keys, element_at(V, tile * dim, dtype), keys, dim, dtype);
        product(P, LANES, keys, lanes, b->K[0], DIMS, 1, b->Q_lanes[0] + from, LANES, (int)dim, false);
        weights(b, p, tile, keys, from);
        product(dS, LANES, keys, lanes, b->V[0], DIMS, 1, b->dO_lanes[0] + from, LANES, (int)dim, false);
        differentiate(b, keys, from);
        product(b->dQ[0] + from, LANES, (int)dim, lanes, b->K[0], 1, DIMS, dS, LANES, keys, true);
        product(dV, width, keys, width, P, LANES, 1, b->dO[from], DIMS, lanes, true);
        product(dK, width, keys, width, dS, LANES, 1, b->Q[from], DIMS, lanes, true);
    }
}

/* Shares of a head of K and V: so many that each thread has one. */
static int64_t shares_of(struct attention p)
{
    int64_t heads = p.batch * p.kv_heads;
    return (cpu_threads() + heads - 1) / heads;
}

/* Queries of a block: where threads share heads, so few that each has some blocks to do. */
static int64_t block_of(struct attention p, int64_t shares)
{
    int64_t most = QUERIES;
    while (shares > 1 && most > STRIP && attention_group(p) * p.seq_q < 4 * shares * most)
        most /= 2;
    return most;
}

size_t joined_backward_scratch(struct attention p, enum dtype dtype)
{
    (void)dtype; /* all are floats, whatever the type */
    return (size_t)cpu_threads() * sizeof(struct block) +
           2 * (size_t)(p.batch * p.kv_heads * shares_of(p) * p.seq_k * width_of(p.dim)) * sizeof(float);
}

/* A gradient, rounded to its type: (seq_k, dim) = scale times the sum of its shares, which lie 2 (seq_k, width) apart. */
static void add_up(void *gradient, const float *sums, int64_t shares, float scale, struct attention p, enum dtype dtype)
{
    int64_t width = width_of(p.dim), size = p.seq_k * width;
    for (int64_t key = 0; key < p.seq_k; key++) {
        float row[MAX_DIM] = { 0 };
        for (int64_t share = 0; share < shares; share++)
            for (int64_t i = 0; i < p.dim; i++)
                row[i] += scale * sums[2 * share * size + key * width + i];
        floats_to(element_at(gradient, key * p.dim, dtype), row, p.dim, dtype);
    }
}

/* dQ of the queries of b: (queries, dim), rounded to its type. */
static void finish(void *dQ, const struct block *b, struct attention p, enum dtype dtype)
{
    float row[MAX_DIM];
    for (int lane = 0; lane < b->queries; lane++) {
        for (int64_t i = 0; i < p.dim; i++)
            row[i] = p.scale * b->dQ[i][lane];
        floats_to(element_at(dQ, lane * p.dim, dtype), row, p.dim, dtype);
    }
}

/* dQ, Q, O, dO: (batch, heads, seq_q, dim), dK, dV, K, V: (batch, kv_heads, seq_k, dim), lse, dlse: (batch, heads, seq_q). */
static void backward(void *dQ, void *dK, void *dV, const void *Q, const void *K, const void *V, const void *O, const float *lse,
                     const void *dO, const float *dlse, struct attention p, enum dtype dtype)
{
    int64_t heads = p.batch * p.kv_heads, shares = shares_of(p), group = attention_group(p), size = p.seq_k * width_of(p.dim);
    int64_t most = block_of(p, shares), blocks = (p.seq_q + most - 1) / most; /* of a head of Q */
    int64_t threads = cpu_threads(), next = 0;
    struct block *all = scratch(joined_backward_scratch(p, dtype));
    float *sums = (float *)(all + threads);
#pragma omp parallel for
    for (int64_t t = 0; t < threads; t++)
        for (int64_t task; (task = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < heads * shares;) {
            struct block *b = all + t;
            float *sum = sums + task * 2 * size;
            memset(sum, 0, 2 * (size_t)size * sizeof *sum);
            for (int64_t at = task % shares; at < group * blocks; at += shares) {
                b->first = at % blocks * most;
                b->queries = (int)(p.seq_q - b->first < most ? p.seq_q - b->first : most);
                int64_t row = (task / shares * group + at / blocks) * p.seq_q + b->first, q_at = row * p.dim;
                int64_t k_at = task / shares * p.seq_k * p.dim;
                start(b, element_at(Q, q_at, dtype), element_at(O, q_at, dtype), element_at(dO, q_at, dtype), lse + row,
                      dlse ? dlse + row : NULL, p, dtype);
                go_back(b, sum, sum + size, element_at(K, k_at, dtype), element_at(V, k_at, dtype), p, dtype);
                finish(element_at(dQ, q_at, dtype), b, p, dtype);
            }
        }
#pragma omp parallel for
    for (int64_t kv = 0; kv < heads; kv++) {
        int64_t at = kv * p.seq_k * p.dim;
        const float *sum = sums + kv * shares * 2 * size;
        add_up(element_at(dK, at, dtype), sum, shares, p.scale, p, dtype);
        add_up(element_at(dV, at, dtype), sum + size, shares, 1.0f, p, dtype);
    }
}

void joined_backward_cpu(ATTENTION_BACKWARD(float))
{
    backward(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, FP32);
}

void joined_backward_fp16_cpu(ATTENTION_BACKWARD(fp16))
{
    backward(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, FP16);
}

void joined_backward_bf16_cpu(ATTENTION_BACKWARD(bf16))
{
    backward(dQ, dK, dV, Q, K, V, O, lse, dO, dlse, p, BF16);
}

/*
 * Step 35, grouped attention: the queries that share a head of K and V share each load of it.
 *
 * With grouped heads (GQA), heads / kv_heads heads of Q attend to the same head of K and V; and where there are several new
 * queries, each head has as many. All of these are rows of one block: a key that has been loaded is multiplied with ROWS of them,
 * and so is a value. K and V are read once for a block, not once for a query: ROWS multiply-adds for each number loaded.
 *
 * Under a causal mask later queries see more keys. Rows are in the order of their queries, so those that see a key are the last
 * ones: a tile ends where the next row begins to see less, and nothing is masked.
 *
 * Memory: a struct part for each row of a piece, or, where keys are not split, of a block for each thread.
 * Changed since step 34: a block of rows in place of a query.
 */
#include <math.h>
#include <stdbool.h>

#include "floats.h"
#include "machine.h"
#include "merge.h"
#include "steps.h"
#include "vexp.h"

#define KEYS 128      /* of a tile: they are merged at once, and their weights stay in the first-level cache */
#define AHEAD 6144    /* bytes from what is read to what is requested from memory */
#define ROWS 4        /* that share what is loaded, so that a key has ROWS sums in registers */
#define PAIR 2        /* keys that share what is loaded of ROWS queries */
#define VECTORS 4     /* registers of each that hold columns of o while the values of a tile pass by */
#define BLOCK 32      /* rows of a block: a tile of K and V stays in the second-level cache for all of them */
#define LEAST 256     /* keys of a piece, at least: to store and load its state again is then less than 1 % of reading it */
#define IDLE 20       /* one in so many threads may be idle, on average */
#define MAX_DIM 256

/* The state of a query over some of its keys: the maximum, and the sums of exp(score - m) and of exp(score - m) v. */
struct part {
    struct softmax_state s;
    float o[MAX_DIM];
};

/* The rows of a block: queries that share a head of K and V, and their states. */
struct block {
    float q[BLOCK][MAX_DIM];
    int64_t visible[BLOCK];  /* keys that each sees: no fewer than the row before it */
    struct part *part;       /* (rows) */
    int rows;
};

/*
 * The scores w[row][key + j] of keys K: (keys, dim) with `rows` queries. rows and keys are constants, and so is whether to
 * request what lies AHEAD, which is done once for a block.
 */
INLINE void dots(float (*w)[KEYS], int key, float (*q)[MAX_DIM], const void *K, const int rows, const int keys, int64_t dim,
                 float scale, bool first, enum dtype dtype)
{
    floats sum[ROWS][PAIR] = { 0 };
    int64_t i = 0;
    if (first)
        prefetch_stream((const char *)K + AHEAD, (size_t)(keys * dim) * element_bytes(dtype));
    for (; i + WIDTH <= dim; i += WIDTH) {
        floats columns[PAIR];
        for (int j = 0; j < keys; j++)
            columns[j] = floats_at(K, j * dim + i, dtype);
#pragma GCC unroll 4
        for (int row = 0; row < rows; row++) {
            floats query = floats_at(q[row], i, FP32);
#pragma GCC unroll 4
            for (int j = 0; j < keys; j++)
                sum[row][j] += query * columns[j];
        }
    }
    for (int row = 0; row < rows; row++)
        for (int j = 0; j < keys; j++) {
            if (i < dim)
                sum[row][j] += floats_until(q[row], i, dim, FP32) * floats_until(K, j * dim + i, j * dim + dim, dtype);
            w[row][key + j] = scale * floats_sum(sum[row][j]);
        }
}

/*
 * `vectors` registers of each row's o, from column i on, += the sum of w[row][key] times those of V: (keys, dim). rows and
 * vectors are constants. Requests V AHEAD, if it is the first to load it.
 */
INLINE void add_columns(struct part *part, float (*w)[KEYS], const void *V, int keys, int64_t dim, int64_t i, const int rows,
                        const int vectors, bool first, enum dtype dtype)
{
    floats sum[ROWS][VECTORS];
    for (int row = 0; row < rows; row++)
        memcpy(sum[row], part[row].o + i, (size_t)vectors * sizeof *sum[row]);
    for (int key = 0; key < keys; key++) {
        if (first)
            prefetch_stream(element_at(V, key * dim + i, dtype) + AHEAD, (size_t)(vectors * WIDTH) * element_bytes(dtype));
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            floats value = floats_at(V, key * dim + i + v * WIDTH, dtype);
#pragma GCC unroll 4
            for (int row = 0; row < rows; row++)
                sum[row][v] += w[row][key] * value;
        }
    }
    for (int row = 0; row < rows; row++)
        memcpy(part[row].o + i, sum[row], (size_t)vectors * sizeof *sum[row]);
}

/* Each row's o: (dim) += the sum of w[row][key] V[key], V: (keys, dim). */
INLINE void add_values(struct part *part, float (*w)[KEYS], const void *V, int keys, int64_t dim, const int rows, bool first,
                       enum dtype dtype)
{
    int64_t i = 0;
    for (; i + VECTORS * WIDTH <= dim; i += VECTORS * WIDTH)
        add_columns(part, w, V, keys, dim, i, rows, VECTORS, first, dtype);
    for (; i + WIDTH <= dim; i += WIDTH)
        add_columns(part, w, V, keys, dim, i, rows, 1, first, dtype);
    for (int row = 0; row < rows && i < dim; row++)
        for (int key = 0; key < keys; key++) {
            floats rest = floats_until(part[row].o, i, dim, FP32);
            rest += w[row][key] * floats_until(V, key * dim + i, key * dim + dim, dtype);
            memcpy(part[row].o + i, &rest, (size_t)(dim - i) * sizeof(float));
        }
}

/*
 * Merge a tile into s: its scores w: (keys) become weights exp(score - m), m the maximum of the union; they are 0 where that
 * is -inf. Returns what the sums of the part before count for in it.
 */
static float weigh(struct softmax_state *s, float *w, int keys)
{
    float m = s->m, l = 0.0f;
#pragma omp simd reduction(max : m)
    for (int key = 0; key < keys; key++)
        m = w[key] > m ? w[key] : m;
    float base = m == -INFINITY ? 0.0f : m; /* no key with any weight yet: -inf - -inf would be NaN */
    float keep = vexp(s->m - base);
#pragma omp simd reduction(+ : l)
    for (int key = 0; key < keys; key++) {
        w[key] = vexp(w[key] - base);
        l += w[key];
    }
    *s = (struct softmax_state){ m, s->l * keep + l };
    return keep;
}

/* Merge a tile into the states of `rows` rows: `keys` keys and values, K, V: (keys, dim), KEYS at most. rows is a constant. */
INLINE void merge_tile(struct part *part, float (*q)[MAX_DIM], const void *K, const void *V, int keys, int64_t dim, float scale,
                       const int rows, bool first, enum dtype dtype)
{
    float w[ROWS][KEYS];
    int key = 0;
    for (; key + PAIR <= keys; key += PAIR)
        dots(w, key, q, element_at(K, key * dim, dtype), rows, PAIR, dim, scale, first, dtype);
    for (; key < keys; key++)
        dots(w, key, q, element_at(K, key * dim, dtype), rows, 1, dim, scale, first, dtype);
    for (int row = 0; row < rows; row++) {
        float keep = weigh(&part[row].s, w[row], keys);
        for (int64_t i = 0; i < dim; i++)
            part[row].o[i] *= keep;
    }
    add_values(part, w, V, keys, dim, rows, first, dtype);
}

/*
 * Merges keys from `key` on, up to `last`, into the states of the block's rows; K, V: (seq_k, dim). A row sees its first
 * `visible` keys, and the last row sees all up to `last`. Tiles have KEYS keys at most, which all their rows see.
 */
INLINE void attend(struct block *b, const void *K, const void *V, int64_t key, int64_t last, int64_t dim, float scale,
                   enum dtype dtype)
{
    int row = 0;
    for (int64_t keys; key < last; key += keys) {
        const void *k = element_at(K, key * dim, dtype), *v = element_at(V, key * dim, dtype);
        while (b->visible[row] <= key) /* it and those before it have seen all that they see */
            row++;
        keys = b->visible[row] < last ? b->visible[row] - key : last - key;
        keys = keys < KEYS ? keys : KEYS;
        int at = row;
        for (; at + ROWS <= b->rows; at += ROWS)
            merge_tile(b->part + at, b->q + at, k, v, (int)keys, dim, scale, ROWS, at == row, dtype);
        for (; at < b->rows; at++)
            merge_tile(b->part + at, b->q + at, k, v, (int)keys, dim, scale, 1, at == row, dtype);
    }
}

/* o: (dim) = part's o / l, rounded to its type; and its lse, where that is wanted. */
static void finish(void *o, float *lse, const struct part *part, int64_t dim, enum dtype dtype)
{
    float quotient[MAX_DIM];
    for (int64_t i = 0; i < dim; i++)
        quotient[i] = part->s.l == 0.0f ? 0.0f : part->o[i] / part->s.l;
    floats_to(o, quotient, dim, dtype);
    if (lse)
        *lse = part->s.m + logf(part->s.l);
}

/* What a part's sums count for in a union whose maximum is m. The empty part, with its m of -inf, counts for nothing. */
static float share(struct softmax_state part, float m)
{
    return part.l == 0.0f ? 0.0f : expf(part.m - m);
}

/* Merge the states of all pieces of a row, which lie `stride` apart, into the first, in their order. */
static void merge_pieces(struct part *part, int64_t pieces, int64_t stride, int64_t dim)
{
    for (int64_t piece = 1; piece < pieces; piece++) {
        const struct part *next = part + piece * stride;
        struct softmax_state both = softmax_merge(part->s, next->s);
        float keep = share(part->s, both.m), add = share(next->s, both.m);
#pragma omp simd
        for (int64_t i = 0; i < dim; i++)
            part->o[i] = part->o[i] * keep + next->o[i] * add;
        part->s = both;
    }
}

/*
 * How many pieces each block's keys are cut into: the fewest that leave no more than one thread in IDLE without work, and no more
 * than keys allow. With as many pieces as threads, no thread is idle: the search ends there.
 */
static int64_t pieces_of(int64_t blocks, int64_t keys, int64_t threads)
{
    int64_t pieces = 1, most = keys / LEAST;
    for (; pieces < most; pieces++) {
        int64_t rounds = (blocks * pieces + threads - 1) / threads;
        if (IDLE * blocks * pieces >= (IDLE - 1) * rounds * threads)
            break;
    }
    return pieces;
}

/* Rows of a head of K and V: each query of each head of its group, query by query. */
static int64_t rows_of(struct attention p)
{
    return attention_group(p) * p.seq_q;
}

static int64_t blocks_of(struct attention p)
{
    return (rows_of(p) + BLOCK - 1) / BLOCK;
}

/* Where a row of a head of K and V lies among those of Q. */
static int64_t row_at(struct attention p, int64_t kv_head, int64_t row)
{
    int64_t group = attention_group(p);
    return (kv_head * group + row % group) * p.seq_q + row / group;
}

/* Piece `piece` of `pieces` of the keys that rows `from` to from + rows - 1 of a head of K and V see. part: (rows). */
static void piece_attention(struct part *part, const void *Q, const void *K, const void *V, int64_t kv_head, int64_t from,
                            int rows, int64_t piece, int64_t pieces, struct attention p, enum dtype dtype)
{
    struct block b = { .part = part, .rows = rows };
    for (int row = 0; row < rows; row++) {
        b.visible[row] = attention_visible(p, (from + row) / attention_group(p));
        floats_of(b.q[row], element_at(Q, row_at(p, kv_head, from + row) * p.dim, dtype), p.dim, dtype);
        part[row].s = softmax_empty();
        memset(part[row].o, 0, (size_t)p.dim * sizeof(float));
    }
    int64_t visible = b.visible[rows - 1], first = visible * piece / pieces, last = visible * (piece + 1) / pieces;
    const void *k = element_at(K, kv_head * p.seq_k * p.dim, dtype), *v = element_at(V, kv_head * p.seq_k * p.dim, dtype);
    switch (dtype) { /* a copy of the code for each */
    case FP16: attend(&b, k, v, first, last, p.dim, p.scale, FP16); break;
    case BF16: attend(&b, k, v, first, last, p.dim, p.scale, BF16); break;
    default:   attend(&b, k, v, first, last, p.dim, p.scale, FP32); break;
    }
}

/*
 * O, Q: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), lse: (batch, heads, seq_q) or NULL. dim <= MAX_DIM. In
 * so many pieces.
 */
void grouped_attention_pieces(void *O, float *lse, const void *Q, const void *K, const void *V, struct attention p,
                              enum dtype dtype, int64_t pieces)
{
    int64_t kv_heads = p.batch * p.kv_heads, blocks = blocks_of(p), all = rows_of(p);
    struct part *part = pieces > 1 ? scratch((size_t)(kv_heads * all * pieces) * sizeof *part) : NULL; /* (head, piece, row) */
#pragma omp parallel for
    for (int64_t at = 0; at < kv_heads * pieces * blocks; at++) {
        struct part own[BLOCK];
        int64_t head = at / blocks / pieces, piece = at / blocks % pieces, from = at % blocks * BLOCK;
        int rows = all - from < BLOCK ? (int)(all - from) : BLOCK;
        struct part *mine = part ? part + (head * pieces + piece) * all + from : own;
        piece_attention(mine, Q, K, V, head, from, rows, piece, pieces, p, dtype);
        for (int row = 0; row < rows && !part; row++) {
            int64_t to = row_at(p, head, from + row);
            finish(element_at(O, to * p.dim, dtype), lse ? lse + to : NULL, mine + row, p.dim, dtype);
        }
    }
#pragma omp parallel for
    for (int64_t at = 0; at < (part ? kv_heads * all : 0); at++) {
        struct part *first = part + at / all * pieces * all + at % all;
        int64_t to = row_at(p, at / all, at % all);
        merge_pieces(first, pieces, all, p.dim);
        finish(element_at(O, to * p.dim, dtype), lse ? lse + to : NULL, first, p.dim, dtype);
    }
}

static void attention(void *O, float *lse, const void *Q, const void *K, const void *V, struct attention p, enum dtype dtype)
{
    int64_t pieces = pieces_of(p.batch * p.kv_heads * blocks_of(p), p.seq_k, cpu_threads());
    grouped_attention_pieces(O, lse, Q, K, V, p, dtype, pieces);
}

void grouped_attention_cpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    attention(O, lse, Q, K, V, p, FP32);
}

void grouped_attention_fp16_cpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p)
{
    attention(O, lse, Q, K, V, p, FP16);
}

void grouped_attention_bf16_cpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p)
{
    attention(O, lse, Q, K, V, p, BF16);
}

size_t grouped_attention_scratch(struct attention p, enum dtype dtype)
{
    (void)dtype;
    int64_t pieces = pieces_of(p.batch * p.kv_heads * blocks_of(p), p.seq_k, cpu_threads());
    return pieces > 1 ? (size_t)(p.batch * p.heads * p.seq_q * pieces) * sizeof(struct part) : 0;
}

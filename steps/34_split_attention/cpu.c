/*
 * Step 34, split attention: the keys of a query are shared by all cores.
 *
 * Threads take pieces of the same query's keys. Each leaves the state of its piece, (m, l, o), and when all have, the states are
 * merged by the rule of merge.h: in the order of the pieces, so that the result has the same bits on any number of threads, as
 * long as there are as many pieces. A piece without keys is the empty state, and changes nothing.
 *
 *     time  ~  rounds of pieces / pieces a query,      rounds = pieces of all queries / threads, rounded up
 *
 * Memory: a struct part for each piece, or, where queries are not split, one for each thread.
 * Changed since step 33: pieces, their number, and the merge at the end.
 */
#include <math.h>

#include "floats.h"
#include "machine.h"
#include "merge.h"
#include "steps.h"
#include "vexp.h"

#define KEYS 128      /* of a tile: they are merged at once, and their weights stay in the first-level cache */
#define AHEAD 6144    /* bytes from what is read to what is requested from memory */
#define VECTORS 8     /* registers that hold columns of o while the values of a tile pass by */
#define LEAST 256     /* keys of a piece, at least: to store and load its state again is then less than 1 % of reading it */
#define IDLE 20       /* one in so many threads may be idle, on average */
#define MAX_DIM 256

/* The state of a query over some of its keys: the maximum, and the sums of exp(score - m) and of exp(score - m) v. */
struct part {
    struct softmax_state s;
    float o[MAX_DIM];
};

/* q, k: (dim), a query and a key. Requests the key that lies AHEAD. */
INLINE float dot(const float *q, const void *k, int64_t dim, enum dtype dtype)
{
    floats sum = { 0 };
    int64_t i = 0;
    prefetch_stream((const char *)k + AHEAD, (size_t)dim * element_bytes(dtype));
    for (; i + WIDTH <= dim; i += WIDTH)
        sum += floats_at(q, i, FP32) * floats_at(k, i, dtype);
    if (i < dim)
        sum += floats_until(q, i, dim, FP32) * floats_until(k, i, dim, dtype);
    return floats_sum(sum);
}

/* `vectors` registers of o += the sum of w[key] times those of V: (keys, dim). vectors is a constant. Requests V AHEAD. */
INLINE void add_columns(float *o, const float *w, const void *V, int keys, int64_t dim, const int vectors, enum dtype dtype)
{
    floats sum[VECTORS];
    memcpy(sum, o, (size_t)vectors * sizeof *sum);
    for (int key = 0; key < keys; key++) {
        prefetch_stream(element_at(V, key * dim, dtype) + AHEAD, (size_t)(vectors * WIDTH) * element_bytes(dtype));
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            sum[v] += w[key] * floats_at(V, key * dim + v * WIDTH, dtype);
    }
    memcpy(o, sum, (size_t)vectors * sizeof *sum);
}

/* o: (dim) += the sum of w[key] V[key], V: (keys, dim). */
INLINE void add_values(float *o, const float *w, const void *V, int keys, int64_t dim, enum dtype dtype)
{
    int64_t i = 0;
    for (; i + VECTORS * WIDTH <= dim; i += VECTORS * WIDTH)
        add_columns(o + i, w, element_at(V, i, dtype), keys, dim, VECTORS, dtype);
    for (; i + VECTORS / 2 * WIDTH <= dim; i += VECTORS / 2 * WIDTH)
        add_columns(o + i, w, element_at(V, i, dtype), keys, dim, VECTORS / 2, dtype);
    for (; i + WIDTH <= dim; i += WIDTH)
        add_columns(o + i, w, element_at(V, i, dtype), keys, dim, 1, dtype);
    for (int key = 0; key < keys && i < dim; key++) {
        floats rest = floats_until(o, i, dim, FP32) + w[key] * floats_until(V, key * dim + i, key * dim + dim, dtype);
        memcpy(o + i, &rest, (size_t)(dim - i) * sizeof *o);
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

/* Merge a tile into a part: `keys` keys and values, K, V: (keys, dim), KEYS at most. q: (dim). */
INLINE void merge_tile(struct part *part, const float *q, const void *K, const void *V, int keys, int64_t dim, float scale,
                       enum dtype dtype)
{
    float w[KEYS];
    for (int key = 0; key < keys; key++)
        w[key] = scale * dot(q, element_at(K, key * dim, dtype), dim, dtype);

    float keep = weigh(&part->s, w, keys);
    for (int64_t i = 0; i < dim; i++)
        part->o[i] *= keep;
    add_values(part->o, w, V, keys, dim, dtype);
}

/* The state of one query, q: (dim), over `keys` keys and values, K, V: (keys, dim). */
INLINE void attend(struct part *part, const void *q, const void *K, const void *V, int64_t keys, int64_t dim, float scale,
                   enum dtype dtype)
{
    float query[MAX_DIM];
    floats_of(query, q, dim, dtype);
    memset(part->o, 0, (size_t)dim * sizeof *part->o);
    part->s = softmax_empty();
    for (int64_t key = 0; key < keys; key += KEYS)
        merge_tile(part, query, element_at(K, key * dim, dtype), element_at(V, key * dim, dtype),
                   keys - key < KEYS ? (int)(keys - key) : KEYS, dim, scale, dtype);
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

/* Merge the states of all pieces, part: (pieces), into the first, in their order. */
static void merge_pieces(struct part *part, int64_t pieces, int64_t dim)
{
    for (int64_t piece = 1; piece < pieces; piece++) {
        struct softmax_state both = softmax_merge(part->s, part[piece].s);
        float keep = share(part->s, both.m), add = share(part[piece].s, both.m);
#pragma omp simd
        for (int64_t i = 0; i < dim; i++)
            part->o[i] = part->o[i] * keep + part[piece].o[i] * add;
        part->s = both;
    }
}

/*
 * How many pieces each query's keys are cut into: the fewest that leave no more than one thread in IDLE without work, and no more
 * than keys allow. With as many pieces as threads, no thread is idle: the search ends there.
 */
static int64_t pieces_of(int64_t queries, int64_t keys, int64_t threads)
{
    int64_t pieces = 1, most = keys / LEAST;
    for (; pieces < most; pieces++) {
        int64_t rounds = (queries * pieces + threads - 1) / threads;
        if (IDLE * queries * pieces >= (IDLE - 1) * rounds * threads)
            break;
    }
    return pieces;
}

/* Piece `piece` of `pieces` of a query's keys. */
static void piece_attention(struct part *part, const void *Q, const void *K, const void *V, int64_t row, int64_t piece,
                            int64_t pieces, struct attention p, enum dtype dtype)
{
    int64_t visible = attention_visible(p, row % p.seq_q), first = visible * piece / pieces;
    int64_t keys = visible * (piece + 1) / pieces - first;
    int64_t at = (attention_kv_head(p, row / p.seq_q) * p.seq_k + first) * p.dim;
    const void *q = element_at(Q, row * p.dim, dtype), *k = element_at(K, at, dtype), *v = element_at(V, at, dtype);
    switch (dtype) { /* a copy of the code for each */
    case FP16: attend(part, q, k, v, keys, p.dim, p.scale, FP16); break;
    case BF16: attend(part, q, k, v, keys, p.dim, p.scale, BF16); break;
    default:   attend(part, q, k, v, keys, p.dim, p.scale, FP32); break;
    }
}

/*
 * O, Q: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), lse: (batch, heads, seq_q) or NULL. dim <= MAX_DIM. In
 * so many pieces.
 */
void split_attention_pieces(void *O, float *lse, const void *Q, const void *K, const void *V, struct attention p,
                            enum dtype dtype, int64_t pieces)
{
    int64_t rows = p.batch * p.heads * p.seq_q;
    struct part *part = pieces > 1 ? scratch((size_t)(rows * pieces) * sizeof *part) : NULL;
#pragma omp parallel for
    for (int64_t at = 0; at < rows * pieces; at++) {
        struct part own, *mine = part ? part + at : &own;
        int64_t row = at / pieces;
        piece_attention(mine, Q, K, V, row, at % pieces, pieces, p, dtype);
        if (!part)
            finish(element_at(O, row * p.dim, dtype), lse ? lse + row : NULL, mine, p.dim, dtype);
    }
#pragma omp parallel for
    for (int64_t row = 0; row < (part ? rows : 0); row++) {
        merge_pieces(part + row * pieces, pieces, p.dim);
        finish(element_at(O, row * p.dim, dtype), lse ? lse + row : NULL, part + row * pieces, p.dim, dtype);
    }
}

static void attention(void *O, float *lse, const void *Q, const void *K, const void *V, struct attention p, enum dtype dtype)
{
    int64_t pieces = pieces_of(p.batch * p.heads * p.seq_q, p.seq_k, cpu_threads());
    split_attention_pieces(O, lse, Q, K, V, p, dtype, pieces);
}

void split_attention_cpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    attention(O, lse, Q, K, V, p, FP32);
}

void split_attention_fp16_cpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p)
{
    attention(O, lse, Q, K, V, p, FP16);
}

void split_attention_bf16_cpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p)
{
    attention(O, lse, Q, K, V, p, BF16);
}

size_t split_attention_scratch(struct attention p, enum dtype dtype)
{
    (void)dtype;
    int64_t rows = p.batch * p.heads * p.seq_q, pieces = pieces_of(rows, p.seq_k, cpu_threads());
    return pieces > 1 ? (size_t)(rows * pieces) * sizeof(struct part) : 0;
}

/*
 * Step 33, decode attention: one query against a long cache.
 *
 * A model that writes has one new query a head, and keys and values of all tokens before it. Each of these is read once, for two
 * multiply-adds a number: memory is the limit, as it was in Part I. So K and V are taken as they lie, in whatever type they are
 * stored, front to back and never twice: a tile of keys, then a tile of their values. Each tile joins (m, l, o) by the merge of
 * step 13, all its keys at once: one exponential a key, and one more a tile.
 *
 * A thread owns a query of a head. With fewer of them than cores, cores are idle: step 34.
 *
 * Memory: one struct part for each thread, on its stack.
 * Changed since step 13: a tile of keys at a time; 16-bit K and V; lines are requested before they are needed.
 */
#include <math.h>

#include "floats.h"
#include "merge.h"
#include "steps.h"
#include "vexp.h"

#define KEYS 128      /* of a tile: they are merged at once, and their weights stay in the first-level cache */
#define AHEAD 6144    /* bytes from what is read to what is requested from memory */
#define VECTORS 8     /* registers that hold columns of o while the values of a tile pass by */
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

/* O, Q: (batch, heads, seq_q, dim), K, V: (batch, kv_heads, seq_k, dim), lse: (batch, heads, seq_q) or NULL. dim <= MAX_DIM. */
static void attention(void *O, float *lse, const void *Q, const void *K, const void *V, struct attention p, enum dtype dtype)
{
#pragma omp parallel for
    for (int64_t row = 0; row < p.batch * p.heads * p.seq_q; row++) {
        struct part part;
        int64_t at = attention_kv_head(p, row / p.seq_q) * p.seq_k * p.dim, keys = attention_visible(p, row % p.seq_q);
        const void *q = element_at(Q, row * p.dim, dtype), *k = element_at(K, at, dtype), *v = element_at(V, at, dtype);
        switch (dtype) { /* a copy of the code for each */
        case FP16: attend(&part, q, k, v, keys, p.dim, p.scale, FP16); break;
        case BF16: attend(&part, q, k, v, keys, p.dim, p.scale, BF16); break;
        default:   attend(&part, q, k, v, keys, p.dim, p.scale, FP32); break;
        }
        finish(element_at(O, row * p.dim, dtype), lse ? lse + row : NULL, &part, p.dim, dtype);
    }
}

void decode_attention_cpu(float *O, float *lse, const float *Q, const float *K, const float *V, struct attention p)
{
    attention(O, lse, Q, K, V, p, FP32);
}

void decode_attention_fp16_cpu(fp16 *O, float *lse, const fp16 *Q, const fp16 *K, const fp16 *V, struct attention p)
{
    attention(O, lse, Q, K, V, p, FP16);
}

void decode_attention_bf16_cpu(bf16 *O, float *lse, const bf16 *Q, const bf16 *K, const bf16 *V, struct attention p)
{
    attention(O, lse, Q, K, V, p, BF16);
}

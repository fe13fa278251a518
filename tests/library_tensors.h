/*
 * What the tests of the library have in common: tensors, dense, as the steps have them, and laid out, and problems of attention.
 */
#ifndef LIBRARY_TENSORS_H
#define LIBRARY_TENSORS_H

#include <stdlib.h>
#include <string.h>

#include "from_softmax.h"
#include "harness.h"

enum layout { DENSE, BY_POSITION, ROOM_BEHIND, BESIDE_ANOTHER, GAPS, LAYOUTS };
static const char *const layout_names[] = { "dense", "(batch, seq, heads, dim)", "room behind the keys",
                                            "(batch, seq, 2, heads, dim)", "gaps" };

struct sizes {
    int64_t batch, heads, seq, dim;
};

struct strided {
    struct buffer b;
    int64_t batch, head, seq;
};

static inline int64_t count_of(struct sizes n)
{
    return n.batch * n.heads * n.seq * n.dim;
}

static inline struct strided strided_new(enum layout layout, struct sizes n, enum dtype dtype)
{
    struct strided t = { .head = n.seq * n.dim, .seq = n.dim };
    switch (layout) {
    case BY_POSITION:    t.head = n.dim, t.seq = n.heads * n.dim; break;
    case ROOM_BEHIND:    t.head = (n.seq + 5) * n.dim; break;
    case BESIDE_ANOTHER: t.head = n.dim, t.seq = 2 * n.heads * n.dim; break;
    case GAPS:           t.seq = n.dim + 3, t.head = n.seq * t.seq + 7; break;
    default:             break;
    }
    t.batch = layout == BY_POSITION || layout == BESIDE_ANOTHER ? n.seq * t.seq : n.heads * t.head + (layout == GAPS ? 11 : 0);
    int64_t extent = (n.batch - 1) * t.batch + (n.heads - 1) * t.head + (n.seq - 1) * t.seq + n.dim;
    t.b = buffer_new((size_t)extent * dtype_bytes(dtype), &cpu_device);
    return t;
}

/* Dense numbers into a tensor, or back. */
static inline void move(struct strided *t, void *dense, struct sizes n, enum dtype dtype, bool back)
{
    size_t size = dtype_bytes(dtype), row = (size_t)n.dim * size;
    for (int64_t i = 0; i < n.batch * n.heads * n.seq; i++) {
        int64_t b = i / n.seq / n.heads, h = i / n.seq % n.heads, s = i % n.seq;
        char *at = (char *)t->b.data + (size_t)(b * t->batch + h * t->head + s * t->seq) * size;
        char *of = (char *)dense + (size_t)i * row;
        memcpy(back ? of : at, back ? at : of, row);
    }
}

static inline struct fsa_in in_of(const struct strided *t)
{
    return (struct fsa_in){ t->b.data, t->batch, t->head, t->seq };
}

static inline struct fsa_out out_of(const struct strided *t)
{
    return (struct fsa_out){ t->b.data, t->batch, t->head, t->seq };
}

/* Poison, but where the tensor's own numbers lie: nobody wrote beside them. */
static inline bool untouched(struct strided *t, struct sizes n, enum dtype dtype)
{
    void *poison = malloc((size_t)count_of(n) * dtype_bytes(dtype));
    memset(poison, 0xff, (size_t)count_of(n) * dtype_bytes(dtype));
    move(t, poison, n, dtype, false);
    free(poison);
    bool intact = buffer_guards_intact(&t->b);
    for (size_t i = 0; i < t->b.bytes && intact; i++)
        intact = ((unsigned char *)t->b.data)[i] == 0xff;
    return intact;
}

static inline struct buffer filled(int64_t rows, int64_t cols, enum dtype dtype, uint64_t seed)
{
    struct buffer b = buffer_new((size_t)(rows * cols) * dtype_bytes(dtype), &cpu_device);
    input_fill(b.data, dtype, rows, cols, "normal", seed);
    return b;
}

static inline struct buffer floats_from(const struct buffer *x, enum dtype dtype)
{
    int64_t count = (int64_t)(x->bytes / dtype_bytes(dtype));
    struct buffer f = buffer_new((size_t)count * sizeof(float), &cpu_device);
    for (int64_t i = 0; i < count; i++)
        ((float *)f.data)[i] = (float)element(x->data, dtype, i);
    return f;
}

static inline void floats_into(struct buffer *x, const struct buffer *f, enum dtype dtype)
{
    for (int64_t i = 0; i < (int64_t)(f->bytes / sizeof(float)); i++)
        element_set(x->data, dtype, i, (double)((float *)f->data)[i]);
}

static inline bool same(const struct buffer *a, const struct buffer *b)
{
    return a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0;
}

/* ---- problems: Q, K and V, and what a step makes of them */

struct problem {
    struct attention p;
    enum dtype dtype;
    struct buffer q, k, v, O, lse; /* dense; O and lse are the step's */
};

static inline struct sizes queries_of(const struct attention *p)
{
    return (struct sizes){ p->batch, p->heads, p->seq_q, p->dim };
}

static inline struct sizes keys_of(const struct attention *p)
{
    return (struct sizes){ p->batch, p->kv_heads, p->seq_k, p->dim };
}

static inline struct fsa_problem problem_of(const struct problem *x)
{
    const struct attention *p = &x->p;
    return (struct fsa_problem){ p->batch, p->heads, p->kv_heads, p->seq_q, p->seq_k, p->dim, p->scale, p->causal,
                                 (int32_t)x->dtype };
}

static inline struct problem problem_new(struct attention p, enum dtype dtype)
{
    struct problem x = { .p = p, .dtype = dtype };
    int64_t queries = p.batch * p.heads * p.seq_q, keys = p.batch * p.kv_heads * p.seq_k;
    x.q = filled(queries, p.dim, dtype, 1), x.k = filled(keys, p.dim, dtype, 2), x.v = filled(keys, p.dim, dtype, 3);
    x.O = buffer_new(x.q.bytes, &cpu_device);
    x.lse = buffer_new((size_t)queries * sizeof(float), &cpu_device);
    return x;
}

static inline void problem_free(struct problem *x)
{
    struct buffer *all[] = { &x->q, &x->k, &x->v, &x->O, &x->lse };
    for (int i = 0; i < 5; i++)
        buffer_free(all[i]);
}

#endif

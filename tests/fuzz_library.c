/*
 * For libFuzzer: random arguments for every function of the library. Sizes, strides and pointers are often what a caller might
 * have meant and often not. What a function says it would take (FSA_ASK) is held to be possible, in 128 bits. Where there is
 * memory of just the tensors' sizes it then runs, and AddressSanitizer says whether it keeps to that.
 */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "from_softmax.h"

#define SMALL (1 << 18) /* bytes of a tensor, or a workspace, up to which a call is run */
#define CHECK(condition) \
    do {                 \
        if (!(condition)) \
            abort();     \
    } while (0)

static const uint8_t *bytes;
static size_t left;

static uint8_t byte(void)
{
    return left ? left--, *bytes++ : 0;
}

/* A size: mostly small, sometimes at an edge of what numbers hold. */
static int64_t size(void)
{
    static const int64_t odd[] = { 0, -1, INT64_MAX, INT64_MIN, (int64_t)1 << 31, (int64_t)1 << 32, (int64_t)1 << 43,
                                   ((int64_t)1 << 44) + 1, (int64_t)1 << 62, 255, 256, 257, 100, 48, 49, 300 };
    uint8_t b = byte();
    return b >= 0xe0 ? odd[b & 15] : b >= 0xc0 ? 1 + (b & 31) * 5 : 1 + (b & 7);
}

struct tensor {
    char *own;       /* memory of exactly its size, or NULL */
    void *data;
    int64_t stride[3], n[4];
    int element;
};

/* The strides of a dense tensor, of (batch, seq, heads, dim), wider ones, or any. */
static void draw_strides(struct tensor *t)
{
    uint8_t b = byte();
    int64_t *s = t->stride, *n = t->n, pad = b & 64 ? size() : 0;
    if (b < 16) {
        for (int i = 0; i < 3; i++)
            s[i] = size();
    } else if (b & 1) {
        s[1] = n[3];
        if (__builtin_mul_overflow(n[1], n[3], &s[2]) || __builtin_mul_overflow(s[2], n[2], &s[0]))
            s[0] = 1;
    } else if (b & 2) {
        if (__builtin_add_overflow(n[3], pad, &s[2]) || __builtin_mul_overflow(s[2], n[2], &s[1]) ||
            __builtin_mul_overflow(s[1], n[1], &s[0]))
            s[0] = 3;
    } else
        s[0] = s[1] = s[2] = 0;
}

/* Elements from the first to behind the last, or -1: more than there can be, or a size below 1. */
static __int128 extent_of(const struct tensor *t)
{
    bool dense = !t->stride[0] && !t->stride[1] && !t->stride[2];
    __int128 extent = t->n[3], inner = t->n[3];
    for (int i = 2; i >= 0; i--) {
        if (t->n[i] < 1 || t->n[3] < 1 || inner > ((__int128)1 << 60))
            return -1;
        extent += (__int128)(t->n[i] - 1) * (dense ? inner : (__int128)t->stride[i]);
        inner *= t->n[i];
    }
    return extent;
}

static struct tensor draw(int64_t a, int64_t b, int64_t c, int64_t d, int element)
{
    struct tensor t = { .n = { a, b, c, d }, .element = element };
    draw_strides(&t);
    if (a == 1 && b == 1) /* as rows are handed over */
        t.stride[0] = t.stride[1] = 0;
    __int128 extent = extent_of(&t);
    uint8_t how = byte();
    if (extent > 0 && extent * element <= SMALL && how >= 8) {
        t.own = malloc((size_t)extent * (size_t)element);
        memset(t.own, how, (size_t)extent * (size_t)element);
    }
    t.data = how == 1 ? NULL : how == 2 ? (void *)(UINTPTR_MAX - 64) : how == 3 ? (void *)3 : t.own ? t.own : (void *)0x10000;
    return t;
}

static struct tensor numbers(int64_t count)
{
    struct tensor t = { .n = { 1, 1, 1, count }, .element = 4 };
    uint8_t how = byte();
    if (count > 0 && count <= SMALL / 4 && how >= 4) {
        t.own = malloc((size_t)count * 4);
        for (int64_t i = 0; i < count; i++)
            ((int32_t *)t.own)[i] = how & 1 ? (int32_t)i : byte() % 40 - (how & 2);
    }
    t.data = how < 2 ? NULL : t.own ? t.own : NULL;
    return t;
}

static int64_t product(int64_t a, int64_t b, int64_t c)
{
    int64_t all;
    return __builtin_mul_overflow(a, b, &all) || __builtin_mul_overflow(all, c, &all) ? -1 : all;
}

/* One call's arguments, drawn once. */
struct drawn {
    int function;
    struct fsa_problem p;
    struct fsa_cache cache;
    struct tensor t[8], lse, dlse, seqlens, table;
    int count; /* of t */
    int64_t rows, cols;
};

static struct fsa_in in(const struct drawn *d, int i)
{
    return (struct fsa_in){ d->t[i].data, d->t[i].stride[0], d->t[i].stride[1], d->t[i].stride[2] };
}

static struct fsa_out out(const struct drawn *d, int i)
{
    return (struct fsa_out){ d->t[i].data, d->t[i].stride[0], d->t[i].stride[1], d->t[i].stride[2] };
}

static enum fsa_status run_it(const struct drawn *d, struct fsa_run *run)
{
    struct fsa_in a[8];
    struct fsa_out o[3];
    for (int i = 0; i < 8; i++)
        a[i] = in(d, i);
    for (int i = 0; i < 3; i++)
        o[i] = out(d, i);
    switch (d->function) {
    case 0: return fsa_softmax(o[0].data, o[0].seq, a[1].data, a[1].seq, d->rows, d->cols, d->p.dtype, run);
    case 1: return fsa_softmax_backward(o[0].data, o[0].seq, a[1].data, a[1].seq, a[2].data, a[2].seq, d->rows, d->cols,
                                        d->p.dtype, run);
    case 2: return fsa_attention(&d->p, &o[0], d->lse.data, &a[1], &a[2], &a[3], run);
    case 3: return fsa_decode(&d->p, &o[0], d->lse.data, &a[1], &a[2], &a[3], &d->cache, run);
    default: return fsa_attention_backward(&d->p, &o[0], &o[1], &o[2], &a[3], &a[4], &a[5], &a[6], d->lse.data, &a[7],
                                           d->dlse.data, run);
    }
}

static void draw_rows(struct drawn *d, int element)
{
    d->count = 2 + d->function;
    d->rows = size(), d->cols = byte() & 1 ? size() : 1 + byte() * 9;
    for (int i = 0; i < d->count; i++)
        d->t[i] = draw(1, 1, d->rows, d->cols, element);
}

static void draw_attention(struct drawn *d, int element)
{
    static const float scales[] = { 0.125f, 1, -3, 0, NAN, INFINITY, 1e30f, 1e-30f };
    struct fsa_problem *p = &d->p;
    p->batch = size(), p->kv_heads = size();
    if (byte() < 200) /* a group of heads that fits */
        p->heads = product(p->kv_heads, 1 + byte() % 3, 1);
    else
        p->heads = size();
    p->seq_q = size(), p->seq_k = size(), p->dim = size(), p->causal = byte() & 1, p->scale = scales[byte() % 40 % 8];
    bool paged = d->function == 3 && byte() & 1;
    int64_t outer = p->batch, inner = p->seq_k;
    if (d->function == 3) {
        d->cache.page = size(), d->cache.pool = size(), d->cache.most = size();
        d->seqlens = numbers(p->batch);
        d->table = paged ? numbers(product(p->batch, d->cache.most, 1)) : (struct tensor){ .element = 4 };
        d->cache.seqlens = d->seqlens.data, d->cache.table = d->table.data;
        if (d->cache.table)
            outer = d->cache.pool, inner = d->cache.page;
    }
    d->lse = numbers(product(p->batch, p->heads, p->seq_q));
    static const char of[5][9] = { "", "", "qqkk", "qqkk", "qkkqkkqq" };
    d->count = (int)strlen(of[d->function]);
    for (int i = 0; i < d->count; i++)
        d->t[i] = of[d->function][i] == 'q' ? draw(p->batch, p->heads, p->seq_q, p->dim, element)
                                            : draw(outer, p->kv_heads, inner, p->dim, element);
    if (d->function == 4)
        d->dlse = numbers(product(p->batch, p->heads, p->seq_q));
}

/* What was taken is possible; and whether all of it is in memory that is really there. */
static bool is_real(const struct drawn *d, size_t needed)
{
    bool real = needed <= 32 * SMALL && (d->function != 4 || d->lse.data);
    for (int i = 0; i < d->count; i++) {
        __int128 extent = extent_of(&d->t[i]);
        CHECK(extent > 0 && extent * d->t[i].element <= (__int128)1 << 44);
        CHECK((uintptr_t)d->t[i].data % (uintptr_t)d->t[i].element == 0);
        real = real && d->t[i].own && d->t[i].data == d->t[i].own;
    }
    if (d->function >= 2)
        CHECK(isfinite(d->p.scale) && d->p.heads % d->p.kv_heads == 0 && d->p.dim <= FSA_MAX_DIM);
    return real;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    bytes = data, left = length;
    struct drawn d = { .function = byte() % 5 };
    uint8_t type = byte();
    d.p.dtype = type > 250 ? (int32_t)type * 1000003 : type % 3;
    struct fsa_run run = { .flags = FSA_ASK, .threads = byte() % 5 };
    int element = d.p.dtype == FSA_FP32 ? 4 : 2;
    if (d.function < 2)
        draw_rows(&d, element);
    else
        draw_attention(&d, element);
    if (byte() % 16 == 0) { /* there is none */
        run.device = FSA_GPU;
        CHECK(run_it(&d, &run) != FSA_OK);
        run.device = FSA_CPU;
    }
    enum fsa_status status = run_it(&d, &run);
    CHECK(fsa_words((int32_t)status)[0] && status != FSA_WORKSPACE);
    if (status == FSA_OK && is_real(&d, run.needed)) {
        size_t needed = run.needed;
        char *workspace = needed ? malloc(needed) : NULL;
        run.flags = 0, run.workspace = workspace, run.bytes = needed;
        status = run_it(&d, &run);
        CHECK(status == FSA_OK && run.needed == needed);
        free(workspace);
    }
    struct tensor *more[] = { &d.lse, &d.dlse, &d.seqlens, &d.table };
    for (int i = 0; i < 8; i++)
        free(d.t[i].own);
    for (int i = 0; i < 4; i++)
        free(more[i]->own);
    return 0;
}

/*
 * The library: what it computes has the bits of the step that it calls, in whatever layout tensors lie and on however many
 * threads at once; what it cannot take is refused, with a status, and leaves everything as it was. It is linked as the archive
 * that others link, beside the steps and a harness of the same names: that it links at all says that they are hidden there.
 */
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "library_tensors.h"
#include "steps.h"
#include "suites.h"

/* ---- a call with just the workspace that it asks for, behind an odd address, poisoned; and refused with a byte less */

typedef enum fsa_status call_fn(void *with, struct fsa_run *run);

static enum fsa_status call(call_fn *f, void *with, int threads)
{
    struct fsa_run run = { .threads = threads, .flags = FSA_ASK };
    enum fsa_status status = f(with, &run);
    if (status)
        return status;
    size_t needed = run.needed;
    run.flags = 0;
    struct buffer workspace = buffer_new(needed + 1, &cpu_device);
    if (needed) {
        run.workspace = (char *)workspace.data + 1;
        run.bytes = needed - 1;
        ck_assert_int_eq(f(with, &run), FSA_WORKSPACE);
    }
    run.bytes = needed;
    status = f(with, &run);
    ck_assert_uint_eq(run.needed, needed);
    ck_assert(buffer_guards_intact(&workspace));
    buffer_free(&workspace);
    return status;
}

static void well(enum fsa_status status, const char *what)
{
    REQUIRE(status == FSA_OK, "%s: %s", what, fsa_words((int32_t)status));
}

/* ---- attention */

static void by_step_27(struct problem *x)
{
    void *O = x->O.data;
    const void *q = x->q.data, *k = x->k.data, *v = x->v.data;
    switch (x->dtype) {
    case FP16: grouped_attention_fp16_cpu(O, x->lse.data, q, k, v, x->p); break;
    case BF16: grouped_attention_bf16_cpu(O, x->lse.data, q, k, v, x->p); break;
    default:   grouped_attention_cpu(O, x->lse.data, q, k, v, x->p); break;
    }
}

/* Of one length or of several, in one page a sequence. */
static void by_step_30(struct problem *x, const int32_t *lengths)
{
    struct attention p = x->p;
    int32_t *table = malloc((size_t)p.batch * sizeof *table), *all = malloc((size_t)p.batch * sizeof *all);
    struct pages g = { .size = p.seq_k, .pool = p.batch, .most = 1, .table = table, .seqlens = all };
    for (int64_t b = 0; b < p.batch; b++) {
        table[b] = (int32_t)b;
        g.keys += all[b] = lengths ? lengths[b] : (int32_t)p.seq_k;
    }
    void *O = x->O.data;
    const void *q = x->q.data, *k = x->k.data, *v = x->v.data;
    switch (x->dtype) {
    case FP16: paged_attention_fp16_cpu(O, x->lse.data, q, k, v, g, p); break;
    case BF16: paged_attention_bf16_cpu(O, x->lse.data, q, k, v, g, p); break;
    default:   paged_attention_cpu(O, x->lse.data, q, k, v, g, p); break;
    }
    free(table), free(all);
}

static void by_step_14(struct problem *x)
{
    struct buffer q = floats_from(&x->q, x->dtype), k = floats_from(&x->k, x->dtype), v = floats_from(&x->v, x->dtype),
                  O = buffer_new(q.bytes, &cpu_device);
    register_tiled_attention_cpu(O.data, x->lse.data, q.data, k.data, v.data, x->p);
    floats_into(&x->O, &O, x->dtype);
    buffer_free(&q), buffer_free(&k), buffer_free(&v), buffer_free(&O);
}

/* One call of fsa_attention, or with a cache of fsa_decode. */
struct attention_call {
    struct fsa_problem p;
    struct strided O, q, k, v;
    struct buffer lse, dense;
    const struct fsa_cache *cache;
};

static enum fsa_status do_attention(void *with, struct fsa_run *run)
{
    struct attention_call *c = with;
    struct fsa_out O = out_of(&c->O);
    struct fsa_in q = in_of(&c->q), k = in_of(&c->k), v = in_of(&c->v);
    return c->cache ? fsa_decode(&c->p, &O, c->lse.data, &q, &k, &v, c->cache, run)
                    : fsa_attention(&c->p, &O, c->lse.data, &q, &k, &v, run);
}

static struct attention_call attention_call_new(struct problem *x, enum layout queries, enum layout keys, enum layout values)
{
    struct attention_call c = { .p = problem_of(x) };
    struct sizes q = queries_of(&x->p), k = keys_of(&x->p);
    c.O = strided_new(queries, q, x->dtype), c.q = strided_new(queries, q, x->dtype);
    c.k = strided_new(keys, k, x->dtype), c.v = strided_new(values, k, x->dtype);
    move(&c.q, x->q.data, q, x->dtype, false);
    move(&c.k, x->k.data, k, x->dtype, false);
    move(&c.v, x->v.data, k, x->dtype, false);
    c.lse = buffer_new(x->lse.bytes, &cpu_device);
    c.dense = buffer_new(x->O.bytes, &cpu_device);
    return c;
}

static void attention_call_free(struct attention_call *c)
{
    struct buffer *all[] = { &c->O.b, &c->q.b, &c->k.b, &c->v.b, &c->lse, &c->dense };
    for (int i = 0; i < 6; i++)
        buffer_free(all[i]);
}

/* The step's bits came out, and nothing else was written. */
static void compare(struct attention_call *c, const struct problem *x, const char *what)
{
    struct sizes q = queries_of(&x->p);
    move(&c->O, c->dense.data, q, x->dtype, true);
    REQUIRE(same(&c->dense, &x->O), "%s: O has other bits", what);
    REQUIRE(same(&c->lse, &x->lse) && buffer_guards_intact(&c->lse), "%s: lse has other bits", what);
    REQUIRE(untouched(&c->O, q, x->dtype), "%s: something beside O was written", what);
}

/* A few queries of keys that are dense, or must be copied, as where values lie otherwise: by step 35; of others, by step 41. */
static void by_step(struct problem *x, enum layout keys, enum layout values)
{
    if (x->p.seq_q > 20)
        by_step_14(x);
    else if (keys == DENSE || keys == GAPS || keys != values)
        by_step_27(x);
    else
        by_step_30(x, NULL);
}

/* batch, heads, kv_heads, seq_q, seq_k, dim, causal, scale */
static const struct attention shapes[] = {
    { 1, 1, 1, 1, 1, 1, false, 1 },           { 3, 4, 2, 1, 300, 64, false, 0.125f }, { 2, 6, 2, 20, 200, 40, true, 0.2f },
    { 2, 4, 1, 21, 33, 64, true, -0.5f },     { 1, 3, 3, 70, 70, 128, true, 0.1f },   { 2, 2, 2, 100, 61, 5, true, 0.4f },
    { 2, 8, 2, 1, 2100, 32, false, 0.2f },    { 1, 2, 1, 49, 257, 256, false, 0.06f }, { 1, 1, 1, 5, 3, 7, true, 1 },
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

START_TEST(test_attention_in_any_layout)
{
    struct problem x = problem_new(shapes[_i / 3], (enum dtype)(_i % 3));
    for (int keys = 0; keys < LAYOUTS; keys++)
        for (int i = 0; i < 2; i++) {
            enum layout queries = (enum layout)((keys + 3 * i) % LAYOUTS), values = (enum layout)((keys + 2 * i) % LAYOUTS);
            char what[160];
            snprintf(what, sizeof what, "%s, %d queries, keys %s, values %s, queries %s", dtype_name(x.dtype), (int)x.p.seq_q,
                     layout_names[keys], layout_names[values], layout_names[queries]);
            by_step(&x, (enum layout)keys, values);
            struct attention_call c = attention_call_new(&x, queries, (enum layout)keys, values);
            well(call(do_attention, &c, 0), what);
            compare(&c, &x, what);
            attention_call_free(&c);
        }
    problem_free(&x);
}
END_TEST

/* Decoding asks for the workspace that step 41 does, a table and lengths: not for a copy, but where there are gaps. */
START_TEST(test_a_cache_is_read_as_it_lies)
{
    struct problem x = problem_new((struct attention){ 4, 8, 4, 2, 300, 64, true, 0.1f }, (enum dtype)_i);
    const int32_t lengths[] = { 300, 0, 17, 299 };
    const struct fsa_cache cache = { .seqlens = lengths };
    by_step_30(&x, lengths);
    for (int keys = 0; keys < LAYOUTS; keys++) {
        struct attention_call c = attention_call_new(&x, DENSE, (enum layout)keys, (enum layout)keys);
        struct fsa_run run = { .threads = 1, .flags = FSA_ASK };
        c.cache = &cache;
        ck_assert_int_eq(do_attention(&c, &run), FSA_OK);
        REQUIRE((run.needed < x.k.bytes / 4) == (keys != GAPS), "%s: %zu bytes of workspace", layout_names[keys], run.needed);
        well(call(do_attention, &c, 0), layout_names[keys]);
        compare(&c, &x, layout_names[keys]);
        attention_call_free(&c);
    }
    problem_free(&x);
}
END_TEST

/* Pages as step 41 has them, and (pool, page, heads, dim), with and without room between; all else is poison, and the table has
   no pages behind a sequence's own. */
START_TEST(test_pages)
{
    enum { BATCH = 3, PAGE = 16, MOST = 19, POOL = 40 };
    static const enum layout layouts[] = { DENSE, BY_POSITION, BESIDE_ANOTHER };
    struct problem x = problem_new((struct attention){ BATCH, 4, 2, 3, 290, 40, true, 0.15f }, (enum dtype)(_i / 3));
    const int32_t lengths[BATCH] = { 290, 1, 33 };
    int32_t table[BATCH * MOST];
    struct sizes pool = { POOL, 2, PAGE, 40 };
    struct fsa_cache cache = { lengths, table, PAGE, POOL, MOST };
    struct attention_call c = attention_call_new(&x, GAPS, DENSE, DENSE);
    size_t size = dtype_bytes(x.dtype), row = 40 * size;
    buffer_free(&c.k.b), buffer_free(&c.v.b);
    c.k = strided_new(layouts[_i % 3], pool, x.dtype), c.v = strided_new(layouts[_i % 3], pool, x.dtype);
    c.cache = &cache;
    for (int i = 0; i < BATCH * MOST; i++)
        table[i] = -1;
    for (int b = 0, page = 0; b < BATCH; b++)
        for (int key = 0; key < lengths[b]; key++) {
            int32_t *of = &table[b * MOST + key / PAGE];
            if (*of < 0)
                *of = page++ * 7 % POOL; /* each once: 7 and 40 have no divisor */
            for (int head = 0; head < 2; head++) {
                int64_t to = *of * c.k.batch + head * c.k.head + key % PAGE * c.k.seq, from = (b * 2 + head) * 290 + key;
                memcpy((char *)c.k.b.data + (size_t)to * size, (char *)x.k.data + (size_t)from * row, row);
                memcpy((char *)c.v.b.data + (size_t)to * size, (char *)x.v.data + (size_t)from * row, row);
            }
        }
    by_step_30(&x, lengths);
    well(call(do_attention, &c, 0), layout_names[layouts[_i % 3]]);
    compare(&c, &x, layout_names[layouts[_i % 3]]);
    for (int i = 0; i < 2; i++) { /* a page that is not there is not read */
        table[MOST * 2 + 2] = i ? POOL : -1;
        ck_assert_int_eq(call(do_attention, &c, 0), FSA_PAGE);
    }
    attention_call_free(&c);
    problem_free(&x);
}
END_TEST

/* ---- backward */

struct backward_call {
    struct fsa_problem p;
    struct strided t[8]; /* dQ, dK, dV, Q, K, V, O, dO */
    const float *lse, *dlse;
};

static enum fsa_status do_backward(void *with, struct fsa_run *run)
{
    struct backward_call *c = with;
    struct fsa_out out[3];
    struct fsa_in in[5];
    for (int i = 0; i < 8; i++)
        if (i < 3)
            out[i] = out_of(&c->t[i]);
        else
            in[i - 3] = in_of(&c->t[i]);
    return fsa_attention_backward(&c->p, &out[0], &out[1], &out[2], &in[0], &in[1], &in[2], &in[3], c->lse, &in[4], c->dlse, run);
}

static void backward_by_step(struct buffer *want, struct problem *x, void *dO, const float *dlse)
{
    void *dQ = want[0].data, *dK = want[1].data, *dV = want[2].data;
    const void *q = x->q.data, *k = x->k.data, *v = x->v.data, *O = x->O.data;
    const float *lse = x->lse.data;
    switch (x->dtype) {
    case FP16: joined_backward_fp16_cpu(dQ, dK, dV, q, k, v, O, lse, dO, dlse, x->p); break;
    case BF16: joined_backward_bf16_cpu(dQ, dK, dV, q, k, v, O, lse, dO, dlse, x->p); break;
    default:   joined_backward_cpu(dQ, dK, dV, q, k, v, O, lse, dO, dlse, x->p); break;
    }
}

START_TEST(test_backward_in_any_layout)
{
    struct problem x = problem_new(shapes[_i / 3], (enum dtype)(_i % 3));
    struct sizes q = queries_of(&x.p), k = keys_of(&x.p), of[] = { q, k, k, q, k, k, q, q };
    by_step_14(&x);
    struct buffer dO = filled(count_of(q) / q.dim, q.dim, x.dtype, 4), dlse = filled(count_of(q) / q.dim, 1, FP32, 5), want[3],
                  *in[] = { &x.q, &x.k, &x.v, &x.O, &dO };
    for (int i = 0; i < 3; i++)
        want[i] = buffer_new((size_t)count_of(of[i]) * dtype_bytes(x.dtype), &cpu_device);
    backward_by_step(want, &x, dO.data, dlse.data);
    for (int layout = 0; layout < LAYOUTS; layout++) {
        struct backward_call c = { .p = problem_of(&x), .lse = x.lse.data, .dlse = dlse.data };
        for (int i = 0; i < 8; i++) {
            c.t[i] = strided_new((enum layout)((layout + i) % LAYOUTS), of[i], x.dtype);
            if (i >= 3)
                move(&c.t[i], in[i - 3]->data, of[i], x.dtype, false);
        }
        well(call(do_backward, &c, 0), layout_names[layout]);
        for (int i = 0; i < 3; i++) {
            struct buffer got = buffer_new(want[i].bytes, &cpu_device);
            move(&c.t[i], got.data, of[i], x.dtype, true);
            REQUIRE(same(&got, &want[i]), "gradient %d, %s: other bits", i, layout_names[layout]);
            REQUIRE(untouched(&c.t[i], of[i], x.dtype), "gradient %d, %s: something beside it was written", i,
                    layout_names[layout]);
            buffer_free(&got);
        }
        for (int i = 0; i < 8; i++)
            buffer_free(&c.t[i].b);
    }
    for (int i = 0; i < 3; i++)
        buffer_free(&want[i]);
    buffer_free(&dO), buffer_free(&dlse), problem_free(&x);
}
END_TEST

/* ---- softmax */

struct rows_call {
    struct strided y, x, dy; /* dy has data where it is the gradient that is asked for, and x is y then */
    int64_t rows, cols;
    int32_t dtype;
};

static enum fsa_status do_rows(void *with, struct fsa_run *run)
{
    struct rows_call *c = with;
    if (c->dy.b.data)
        return fsa_softmax_backward(c->y.b.data, c->y.seq, c->x.b.data, c->x.seq, c->dy.b.data, c->dy.seq, c->rows, c->cols,
                                    c->dtype, run);
    return fsa_softmax(c->y.b.data, c->y.seq, c->x.b.data, c->x.seq, c->rows, c->cols, c->dtype, run);
}

static struct strided rows_new(const struct buffer *x, enum layout layout, struct sizes n, enum dtype dtype)
{
    struct strided t = strided_new(layout, n, dtype);
    if (x)
        move(&t, x->data, n, dtype, false);
    return t;
}

static void softmax_by_step(struct buffer *y, const struct buffer *x, struct sizes n, enum dtype dtype)
{
    switch (dtype) {
    case FP16: split_softmax_fp16_cpu(y->data, x->data, n.seq, n.dim); break;
    case BF16: split_softmax_bf16_cpu(y->data, x->data, n.seq, n.dim); break;
    default:   split_softmax_cpu(y->data, x->data, n.seq, n.dim); break;
    }
}

static void gradient_by_step(struct buffer *dx, const struct buffer *y, const struct buffer *dy, struct sizes n, enum dtype dtype)
{
    switch (dtype) {
    case FP16: softmax_backward_fp16_cpu(dx->data, y->data, dy->data, n.seq, n.dim); break;
    case BF16: softmax_backward_bf16_cpu(dx->data, y->data, dy->data, n.seq, n.dim); break;
    default:   softmax_backward_cpu(dx->data, y->data, dy->data, n.seq, n.dim); break;
    }
}

/* y with a call's layout, or in place of x; dy: NULL, or the gradient is meant. */
static void check_rows(const struct buffer *want, const struct buffer *x, const struct buffer *dy, struct sizes n,
                       enum dtype dtype, enum layout of_y, enum layout of_x, bool in_place)
{
    char what[160];
    snprintf(what, sizeof what, "%s%s, %d x %d, %s, from %s%s", dtype_name(dtype), dy ? ", gradient" : "", (int)n.seq, (int)n.dim,
             layout_names[of_y], layout_names[of_x], in_place ? ", in place" : "");
    struct rows_call c = { .x = rows_new(x, of_x, n, dtype), .rows = n.seq, .cols = n.dim, .dtype = (int32_t)dtype };
    c.y = in_place ? c.x : rows_new(NULL, of_y, n, dtype);
    if (dy)
        c.dy = rows_new(dy, of_y, n, dtype);
    struct buffer got = buffer_new(want->bytes, &cpu_device);
    well(in_place ? FSA_OK : call(do_rows, &c, 0), what);
    if (in_place) { /* only once */
        struct fsa_run run = { .flags = FSA_ASK };
        ck_assert_int_eq(do_rows(&c, &run), FSA_OK);
        struct buffer w = buffer_new(run.needed + 1, &cpu_device);
        run = (struct fsa_run){ .workspace = w.data, .bytes = w.bytes };
        well(do_rows(&c, &run), what);
        buffer_free(&w);
    }
    move(&c.y, got.data, n, dtype, true);
    REQUIRE(same(&got, want), "%s: other bits", what);
    REQUIRE(untouched(&c.y, n, dtype), "%s: something beside y was written", what);
    buffer_free(&got), buffer_free(&c.x.b), buffer_free(&c.dy.b);
    if (!in_place)
        buffer_free(&c.y.b);
}

/* A row for each thread, or all threads for a row; short rows, and such as no cache holds. */
START_TEST(test_softmax_in_any_layout)
{
    static const int64_t rows[] = { 1, 2, 3, 50 }, cols[] = { 1, 2, 31, 33, 512, 513, 1000, 1024, 4099, 1100003 };
    enum dtype dtype = (enum dtype)_i;
    for (int i = 0; i < 4 * 10; i++) {
        struct sizes n = { 1, 1, rows[i % 4], cols[i / 4] };
        if (i > 36) /* one is enough */
            continue;
        struct buffer x = filled(n.seq, n.dim, dtype, 7), dy = filled(n.seq, n.dim, dtype, 8),
                      y = buffer_new(x.bytes, &cpu_device), dx = buffer_new(x.bytes, &cpu_device);
        softmax_by_step(&y, &x, n, dtype);
        gradient_by_step(&dx, &y, &dy, n, dtype);
        for (int layout = 0; layout < 4; layout++) {
            enum layout of_y = layout & 1 ? GAPS : DENSE, of_x = layout & 2 ? GAPS : DENSE;
            check_rows(&y, &x, NULL, n, dtype, of_y, of_x, false);
            check_rows(&dx, &y, &dy, n, dtype, of_y, of_x, false);
        }
        for (int layout = 0; layout < 2; layout++) {
            check_rows(&y, &x, NULL, n, dtype, DENSE, layout ? GAPS : DENSE, true);
            check_rows(&dx, &y, &dy, n, dtype, DENSE, layout ? GAPS : DENSE, true);
        }
        buffer_free(&x), buffer_free(&y), buffer_free(&dx), buffer_free(&dy);
    }
}
END_TEST

/* Lengths around blocks and slots: what a step takes of the workspace is never more than was asked for. */
START_TEST(test_softmax_of_many_lengths)
{
    for (int64_t cols = 1; cols < 2200; cols += cols % 256 > 5 && cols % 256 < 250 ? 7 : 1) {
        struct sizes n = { 1, 1, 3, cols };
        struct buffer x = filled(n.seq, n.dim, FP32, 9);
        struct rows_call c = { .x = rows_new(&x, DENSE, n, FP32), .y = rows_new(NULL, DENSE, n, FP32), .rows = 3, .cols = cols };
        well(call(do_rows, &c, 1 + _i), "rows of any length");
        buffer_free(&x), buffer_free(&c.x.b), buffer_free(&c.y.b);
    }
}
END_TEST

/* ---- what is refused */

/* A call of each function that is well, to be spoilt: tensors of one size, (2, 2, 24, 8), of fp16. */
struct all {
    struct fsa_problem p;
    struct fsa_run run;
    struct fsa_cache cache;
    struct fsa_in in[5];   /* Q, K, V, O, dO */
    struct fsa_out out[3]; /* dQ, dK, dV; O is out[0] */
    float *lse, *dlse;
    int32_t lengths[2], table[4];
    bool no_problem, no_run, no_cache, no_in, no_out; /* NULL in their place */
};

enum { ATTENTION, DECODE, BACKWARD, FUNCTIONS, ELEMENTS = 2 * 2 * 24 * 8 };

static enum fsa_status do_all(const struct all *a, int function, struct fsa_run *run)
{
    const struct fsa_problem *p = a->no_problem ? NULL : &a->p;
    const struct fsa_out *O = a->no_out ? NULL : &a->out[0];
    const struct fsa_in *k = a->no_in ? NULL : &a->in[1];
    if (a->no_run)
        run = NULL;
    switch (function) {
    case ATTENTION: return fsa_attention(p, O, a->lse, &a->in[0], k, &a->in[2], run);
    case DECODE:    return fsa_decode(p, O, a->lse, &a->in[0], k, &a->in[2], a->no_cache ? NULL : &a->cache, run);
    default:        return fsa_attention_backward(p, O, &a->out[1], &a->out[2], &a->in[0], k, &a->in[2], &a->in[3], a->lse,
                                                  &a->in[4], a->dlse, run);
    }
}

/* Spoils it in the i-th way, and says what it then must be; FSA_OK: there is no i-th. `of`: the functions, as bits. what: as in
   struct fsa_run; dQ is O of the others. */
static enum fsa_status spoil(struct all *a, int i, int *of, const char **what)
{
    static const char *const names[] = { "batch", "heads", "kv_heads", "seq_q", "seq_k", "dim" };
    *of = 1 << ATTENTION | 1 << DECODE | 1 << BACKWARD;
    int64_t *sizes[] = { &a->p.batch, &a->p.heads, &a->p.kv_heads, &a->p.seq_q, &a->p.seq_k, &a->p.dim };
    *what = names[i % 6];
    if (i < 6)
        return *sizes[i] = 0, FSA_SIZE;
    if (i < 12)
        return *sizes[i - 6] = -3, FSA_SIZE;
    if (i < 17) /* sizes of which the product is no number of 64 bits, or more than there can be */
        return *sizes[i - 12] = i % 2 ? INT64_MAX : (int64_t)1 << 45, FSA_SIZE;
    switch (i) {
    case 17: return *what = "p", a->no_problem = true, FSA_NULL;
    case 18: return *what = "run", a->no_run = true, FSA_NULL;
    case 19: return *what = "K", a->no_in = true, FSA_NULL;
    case 20: return *what = "dQ", a->no_out = true, FSA_NULL;
    case 21: return *what = "Q", a->in[0].data = NULL, FSA_NULL;
    case 22: return *what = "V", a->in[2].data = NULL, FSA_NULL;
    case 23: return *what = "dQ", a->out[0].data = NULL, FSA_NULL;
    case 24: return *what = "kv_heads", a->p.kv_heads = 3, a->p.heads = 4, FSA_HEADS;
    case 25: return *what = "dim", a->p.dim = FSA_MAX_DIM + 1, FSA_DIM;
    case 26: return *what = "dtype", a->p.dtype = 3, FSA_DTYPE;
    case 27: return *what = "dtype", a->p.dtype = -1, FSA_DTYPE;
    case 28: return *what = "scale", a->p.scale = NAN, FSA_SCALE;
    case 29: return *what = "scale", a->p.scale = -INFINITY, FSA_SCALE;
    case 30: return *what = "K", a->in[1].seq = -8, FSA_STRIDE;
    case 31: return *what = "K", a->in[1].seq = 7, FSA_STRIDE;
    case 32: return *what = "V", a->in[2].head = 8, FSA_STRIDE;
    case 33: return *what = "dQ", a->out[0].batch = 0, FSA_STRIDE;
    case 34: return *what = "Q", a->in[0].batch = INT64_MAX, FSA_STRIDE;
    case 35: return *what = "Q", a->in[0].head = (int64_t)1 << 46, a->in[0].batch = (int64_t)1 << 48, FSA_SIZE;
    case 36: return *what = "Q", a->in[0].data = (char *)a->in[0].data + 1, FSA_ALIGNMENT;
    case 37: return *what = "dQ", a->out[0].data = (char *)a->out[0].data + 1, FSA_ALIGNMENT;
    case 38: return *what = "lse", a->lse = (float *)((char *)a->lse + 2), FSA_ALIGNMENT;
    case 39: return *what = "dQ", a->out[0].data = (void *)a->in[0].data, FSA_OVERLAP;
    case 40: return *what = "dQ", a->out[0].data = (char *)a->in[2].data + 2 * (ELEMENTS - 1), FSA_OVERLAP;
    case 41: return *what = "workspace", a->run.workspace = (void *)a->in[1].data, FSA_OVERLAP;
    case 42: return *what = "workspace", a->run.workspace = a->out[0].data, FSA_OVERLAP;
    case 43: return *what = "device", a->run.device = 2, FSA_DEVICE;
    case 44: return *what = "stream", a->run.stream = a, FSA_DEVICE;
    case 45: return *what = "threads", a->run.threads = -1, FSA_THREADS;
    case 46: return *what = "threads", a->run.threads = 1025, FSA_THREADS;
    case 47: return *what = "flags", a->run.flags = 4, FSA_FLAG;
    case 48: return *what = "workspace", a->run.bytes = 100, FSA_WORKSPACE;
    case 49: return *what = "workspace", a->run.workspace = NULL, FSA_WORKSPACE;
    case 50: return *what = "Q", a->in[0].data = (void *)(UINTPTR_MAX - 15), FSA_SIZE;
    case 51: return *what = "workspace", a->run.workspace = (void *)(UINTPTR_MAX - 15), FSA_WORKSPACE;
    }
    *of = 1 << DECODE;
    switch (i) {
    case 52: return *what = "cache", a->no_cache = true, FSA_NULL;
    case 53: return *what = "seqlens", a->lengths[1] = 25, FSA_PAGE;
    case 54: return *what = "seqlens", a->lengths[0] = -1, FSA_PAGE;
    case 55: return *what = "page", a->cache.table = a->table, a->cache.page = 0, FSA_SIZE;
    case 56: return *what = "pool", a->cache.table = a->table, a->cache.pool = 0, FSA_SIZE;
    case 57: return *what = "most", a->cache.table = a->table, a->cache.most = 1, FSA_SIZE;
    case 58: return *what = "most", a->cache.table = a->table, a->cache.most = INT64_MAX, FSA_SIZE;
    case 59: return *what = "table", a->cache.table = a->table, a->table[3] = 2, FSA_PAGE;
    case 60: return *what = "table", a->cache.table = a->table, a->table[2] = -1, FSA_PAGE;
    case 61: a->in[1].seq = 9, a->in[1].head = 108, a->in[1].batch = 216;
        return *what = "K", a->cache.table = a->table, FSA_STRIDE;
    case 62: return *what = "seqlens", a->cache.seqlens = (int32_t *)((char *)a->lengths + 1), FSA_ALIGNMENT;
    case 63: return *what = "table", a->cache.table = (int32_t *)((char *)a->table + 1), FSA_ALIGNMENT;
    case 64: return *what = "lse", a->lse = (float *)a->lengths, FSA_OVERLAP;
    }
    *of = 1 << BACKWARD;
    switch (i) {
    case 65: return *what = "lse", a->lse = NULL, FSA_NULL;
    case 66: return *what = "dlse", a->dlse = (float *)((char *)a->dlse + 1), FSA_ALIGNMENT;
    case 67: return *what = "dK", a->out[1].data = a->out[2].data, FSA_OVERLAP;
    case 68: return *what = "dV", a->out[2].data = (void *)a->in[3].data, FSA_OVERLAP;
    case 69: return *what = "dO", a->in[4].seq = 4, FSA_STRIDE;
    case 70: return *what = "dQ", a->out[1].data = (char *)a->out[0].data + 64, FSA_OVERLAP;
    }
    return FSA_OK;
}

START_TEST(test_what_is_refused)
{
    struct buffer t[10];
    for (int i = 0; i < 10; i++)
        t[i] = buffer_new(i == 9 ? 1 << 22 : ELEMENTS * sizeof(float), &cpu_device);
    for (int i = 0;; i++) {
        struct all a = { .p = { 2, 2, 2, 24, 24, 8, 1, 1, FSA_FP16 }, .cache = { .page = 12, .pool = 2, .most = 2 },
                         .lengths = { 24, 24 }, .table = { 0, 1, 1, 0 } };
        for (int j = 0; j < 5; j++)
            a.in[j] = (struct fsa_in){ t[j].data, 384, 192, 8 };
        for (int j = 0; j < 3; j++)
            a.out[j] = (struct fsa_out){ t[5 + j].data, 384, 192, 8 };
        a.lse = t[8].data, a.dlse = a.lse + 100;
        a.cache.seqlens = a.lengths;
        a.run = (struct fsa_run){ .workspace = t[9].data, .bytes = t[9].bytes, .threads = 2 };
        int of;
        const char *what;
        enum fsa_status want = spoil(&a, i, &of, &what);
        if (a.cache.table) { /* pages of twelve keys */
            for (int j = 1; j < 3; j++)
                if (a.in[j].seq == 8)
                    a.in[j] = (struct fsa_in){ t[j].data, 192, 96, 8 };
        }
        if (want == FSA_OK)
            break;
        for (int function = 0; function < FUNCTIONS; function++) {
            if (!(of >> function & 1))
                continue;
            for (int j = 0; j < 10; j++)
                buffer_poison(&t[j]);
            struct fsa_run run = a.run;
            enum fsa_status got = do_all(&a, function, &run);
            REQUIRE(got == want, "case %d of function %d: %s, not %s", i, function, fsa_words((int32_t)got),
                    fsa_words((int32_t)want));
            const char *wrong = function != BACKWARD && strcmp(what, "dQ") == 0 ? "O" : what;
            REQUIRE(a.no_run || strcmp(run.what, wrong) == 0, "case %d of function %d: %s, not %s", i, function, run.what, wrong);
            for (int j = 0; j < 10; j++)
                for (size_t byte = 0; byte < t[j].bytes; byte++)
                    REQUIRE(((unsigned char *)t[j].data)[byte] == 0xff, "case %d of function %d: tensor %d was written", i,
                            function, j);
        }
    }
    for (int i = 0; i < 10; i++)
        buffer_free(&t[i]);
}
END_TEST

/* Where there is no GPU, or no build for one, all that asks for it is refused, whatever else it asks. */
START_TEST(test_no_gpu)
{
    if (gpu_count() > 0)
        return; /* check_library_gpu.c */
    struct all a = { .p = { 2, 2, 2, 24, 24, 8, 1, 1, FSA_FP16 } };
    float x[8] = { 0 }, y[8];
    for (int i = 0; i < 4; i++) {
        struct fsa_run run = { .device = FSA_GPU, .flags = i % 2 ? FSA_ASK : FSA_KEPT, .stream = i < 2 ? NULL : &a };
        for (int function = 0; function < FUNCTIONS; function++)
            ck_assert_int_eq(do_all(&a, function, &run), FSA_DEVICE);
        ck_assert_int_eq(fsa_softmax(y, 0, x, 0, 1, 8, FSA_FP32, &run), FSA_DEVICE);
        ck_assert_int_eq(fsa_softmax_backward(y, 0, x, 0, x, 0, 1, 8, FSA_FP32, &run), FSA_DEVICE);
    }
}
END_TEST

/* The workspace that is asked for without tensors is that with them. */
START_TEST(test_asked_without_tensors)
{
    for (int function = 0; function < FUNCTIONS; function++) {
        struct buffer t = buffer_new(ELEMENTS * sizeof(float) * 9, &cpu_device);
        struct all a = { .p = { 2, 2, 2, 24, 24, 8, 1, 1, FSA_FP16 }, .lengths = { 24, 24 } };
        struct fsa_run without = { .flags = FSA_ASK, .threads = 2 }, with = without;
        a.cache.seqlens = a.lengths;
        for (int j = 0; j < 8; j++)
            if (j < 5)
                a.in[j] = (struct fsa_in){ NULL, 400, 8, 16 };
            else
                a.out[j - 5] = (struct fsa_out){ NULL, 400, 8, 16 };
        ck_assert_int_eq(do_all(&a, function, &without), FSA_OK);
        for (int j = 0; j < 8; j++)
            *(j < 5 ? (void **)&a.in[j].data : &a.out[j - 5].data) = (char *)t.data + j * ELEMENTS * 4;
        a.lse = (float *)((char *)t.data + 8 * ELEMENTS * 4);
        ck_assert_int_eq(do_all(&a, function, &with), FSA_OK);
        ck_assert_uint_eq(with.needed, without.needed);
        buffer_free(&t);
    }
}
END_TEST

START_TEST(test_what_rows_are_refused)
{
    float x[64], y[64], dy[64];
    char w[1 << 16];
    struct fsa_run run = { .workspace = w, .bytes = sizeof w, .threads = 1 };
    memset(y, 0xff, sizeof y);
    for (int i = 0; i < 64; i++)
        x[i] = dy[i] = 1;
    const struct {
        enum fsa_status want;
        const void *x;
        int64_t stride, rows, cols;
        int32_t dtype;
    } all[] = {
        { FSA_NULL, NULL, 8, 8, 8, FSA_FP32 },          { FSA_SIZE, x, 8, 0, 8, FSA_FP32 },
        { FSA_SIZE, x, 8, 8, -1, FSA_FP32 },            { FSA_STRIDE, x, 7, 8, 8, FSA_FP32 },
        { FSA_STRIDE, x, -8, 8, 8, FSA_FP32 },          { FSA_DTYPE, x, 8, 8, 8, 3 },
        { FSA_OVERLAP, y + 4, 8, 4, 8, FSA_FP32 },      { FSA_OVERLAP, y, 9, 4, 8, FSA_FP32 },
        { FSA_SIZE, x, INT64_MAX / 2, 2, 8, FSA_FP32 }, { FSA_SIZE, x, 0, INT64_MAX / 4, 8, FSA_FP32 },
        { FSA_SIZE, x, 0, 1, INT64_MAX, FSA_FP16 },     { FSA_STRIDE, x, INT64_MAX, 3, 8, FSA_FP32 },
        { FSA_ALIGNMENT, (char *)x + 2, 8, 4, 8, FSA_FP32 },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (int backward = 0; backward < 2; backward++) {
            int64_t stride = all[i].stride, rows = all[i].rows, cols = all[i].cols;
            enum fsa_status got = backward ? fsa_softmax_backward(y, 8, all[i].x, stride, dy, 8, rows, cols, all[i].dtype, &run)
                                           : fsa_softmax(y, 8, all[i].x, stride, rows, cols, all[i].dtype, &run);
            REQUIRE(got == all[i].want, "case %d, %d: %s", (int)i, backward, fsa_words((int32_t)got));
            for (int at = 0; at < 64; at++)
                ck_assert(isnan(y[at]));
        }
    ck_assert_int_eq(fsa_softmax(y, 8, x, 8, 8, 8, FSA_FP32, NULL), FSA_NULL);
}
END_TEST

/* As much as there can be, asked for and not touched: the workspace is a number, and no product of sizes overflows. */
START_TEST(test_as_much_as_there_can_be)
{
    static const int64_t most = (int64_t)1 << 42; /* floats */
    char *far = (char *)(UINTPTR_MAX / 2 + 1);
    struct fsa_in q = { far, 0, 0, 0 }, k = { far - 4 * most, 0, 0, 0 }, v = { far - 8 * most, 0, 0, 0 };
    struct fsa_out O = { far + 4 * most, 0, 0, 0 }, dK = { far + 8 * most, 0, 0, 0 }, dV = { far + 12 * most, 0, 0, 0 };
    const float *lse = (float *)(far + 16 * most);
    const int64_t sizes[][6] = { { most, 1, 1, 1, 1, 1 }, { 1, most, 1, 1, 1, 1 }, { 1, 1, 1, most, most, 1 },
                                 { 1, 1, 1, 1, most, 1 }, { 1, 1, 1, most, 1, 1 }, { most / 256, 1, 1, 1, 1, 256 } };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t *n = sizes[i];
        struct fsa_problem p = { n[0], n[1], n[2], n[3], n[4], n[5], 1, 1, FSA_FP32 };
        struct fsa_run run = { .flags = FSA_ASK, .threads = 1024 };
        struct fsa_cache cache = { NULL, NULL, 0, 0, 0 };
        ck_assert_int_eq(fsa_attention(&p, &O, NULL, &q, &k, &v, &run), FSA_OK);
        enum fsa_status status = fsa_attention_backward(&p, &O, &dK, &dV, &q, &k, &v, &q, lse, &q, NULL, &run);
        ck_assert_int_eq(status, FSA_OK);
        ck_assert(run.needed >= 8 * (size_t)n[4] && run.needed < SIZE_MAX / 4);
        status = fsa_decode(&p, &O, NULL, &q, &k, &v, &cache, &run);
        ck_assert(status == FSA_SIZE || (status == FSA_OK && run.needed < SIZE_MAX / 4));
        p.batch = 2 * p.batch; /* one tensor is too large now */
        ck_assert_int_eq(fsa_attention(&p, &O, NULL, &q, &k, &v, &run), FSA_SIZE);
    }
    struct fsa_run run = { .flags = FSA_ASK, .threads = 1024 };
    ck_assert_int_eq(fsa_softmax(far, 0, far - 4 * most, 0, 1, most, FSA_FP32, &run), FSA_OK);
    ck_assert_int_eq(fsa_softmax_backward(far, 0, far - 2 * most, 0, far - 4 * most, 0, most, 1, FSA_FP16, &run), FSA_OK);
    ck_assert_int_eq(fsa_softmax(far, 0, far - 8 * most, 0, 1, 2 * most, FSA_FP32, &run), FSA_SIZE);
}
END_TEST

/* ---- threads */

enum { CALLERS = 6, ROUNDS = 12 };

/* What one thread calls, again and again: each of them something else, and two of them the same. */
struct caller {
    pthread_t thread;
    int index;
    struct problem x;
    struct attention_call c;
    struct buffer want, workspace; /* O as it came out alone */
    int wrong;
};

static void once(struct caller *a)
{
    struct fsa_run run = { .threads = 1 + a->index % 3, .workspace = a->workspace.data, .bytes = a->workspace.bytes };
    buffer_poison(&a->c.O.b);
    a->wrong += do_attention(&a->c, &run) != FSA_OK;
}

static void *again_and_again(void *arg)
{
    struct caller *a = arg;
    for (int i = 0; i < ROUNDS; i++) {
        once(a);
        a->wrong += !same(&a->c.O.b, &a->want);
    }
    return NULL;
}

START_TEST(test_many_at_once)
{
    static const int of[CALLERS] = { 1, 2, 3, 6, 4, 1 };
    static const struct fsa_cache all = { NULL, NULL, 0, 0, 0 };
    struct caller a[CALLERS] = { { .wrong = 0 } };
    for (int i = 0; i < CALLERS; i++) {
        a[i].index = i;
        a[i].x = problem_new(shapes[of[i]], (enum dtype)(i % 3));
        a[i].c = attention_call_new(&a[i].x, GAPS, GAPS, GAPS);
        a[i].c.cache = i % 2 ? &all : NULL;
        a[i].workspace = buffer_new(8 << 20, &cpu_device);
        a[i].want = buffer_new(a[i].c.O.b.bytes, &cpu_device);
        once(&a[i]);
        memcpy(a[i].want.data, a[i].c.O.b.data, a[i].want.bytes);
    }
    for (int i = 0; i < CALLERS; i++)
        ck_assert_int_eq(pthread_create(&a[i].thread, NULL, again_and_again, &a[i]), 0);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(a[i].thread, NULL);
        ck_assert_msg(a[i].wrong == 0, "caller %d: wrong %d times", i, a[i].wrong);
        buffer_free(&a[i].want), buffer_free(&a[i].workspace);
        attention_call_free(&a[i].c), problem_free(&a[i].x);
    }
}
END_TEST

/* The caller's own number of threads is what it was; and where it must not be, the number of threads changes no bit. */
START_TEST(test_threads_of_a_call)
{
    struct problem x = problem_new(shapes[5], FP32);
    by_step_14(&x);
    int usual = cpu_threads();
    for (int threads = 1; threads <= THREADS_UP_TO(5); threads++) {
        struct attention_call c = attention_call_new(&x, GAPS, BY_POSITION, BY_POSITION);
        well(call(do_attention, &c, threads), "threads");
        compare(&c, &x, "threads");
        ck_assert_int_eq(cpu_threads(), usual);
        attention_call_free(&c);
    }
    problem_free(&x);
}
END_TEST

/* Rows that a thread has to itself, and such as all share. */
START_TEST(test_threads_change_no_bit_of_a_row)
{
    enum dtype dtype = (enum dtype)(_i / 2);
    struct sizes n = { 1, 1, 3, 4099 };
    struct buffer x = filled(n.seq, n.dim, dtype, 7), dy = filled(n.seq, n.dim, dtype, 8);
    struct buffer first = buffer_new(x.bytes, &cpu_device);
    struct rows_call c = { .rows = n.seq, .cols = n.dim, .dtype = (int32_t)dtype };
    c.y = rows_new(NULL, DENSE, n, dtype), c.x = rows_new(&x, DENSE, n, dtype);
    if (_i % 2)
        c.dy = rows_new(&dy, DENSE, n, dtype);
    for (int threads = 1; threads <= 5; threads++) {
        well(call(do_rows, &c, threads), "rows");
        if (threads == 1)
            memcpy(first.data, c.y.b.data, first.bytes);
        ck_assert_msg(same(&first, &c.y.b), "%s, %d threads: other bits than by one", dtype_name(dtype), threads);
    }
    buffer_free(&x), buffer_free(&dy), buffer_free(&first), buffer_free(&c.x.b), buffer_free(&c.y.b), buffer_free(&c.dy.b);
}
END_TEST

START_TEST(test_words)
{
    for (int32_t i = FSA_OK; i <= FSA_LAUNCH; i++)
        for (int32_t j = -1; j < i; j++)
            ck_assert_str_ne(fsa_words(i), fsa_words(j));
    ck_assert_str_eq(fsa_words(-1), fsa_words(INT32_MAX));
    ck_assert_str_eq(fsa_words(FSA_LAUNCH + 1), fsa_words(INT32_MIN));
    ck_assert_str_eq(fsa_version(), FSA_VERSION);
}
END_TEST

Suite *library_suite(void)
{
    Suite *suite = suite_create("library");
    TCase *bits = tcase_create("bits"), *refused = tcase_create("refused"), *threads = tcase_create("threads");
    tcase_set_timeout(bits, 120);
    tcase_add_checked_fixture(bits, guard_pages, NULL);
    tcase_add_loop_test(bits, test_attention_in_any_layout, 0, 3 * SHAPES);
    tcase_add_loop_test(bits, test_a_cache_is_read_as_it_lies, FP32, BF16 + 1);
    tcase_add_loop_test(bits, test_pages, 0, 9);
    tcase_add_loop_test(bits, test_backward_in_any_layout, 0, 3 * SHAPES);
    tcase_add_loop_test(bits, test_softmax_in_any_layout, FP32, BF16 + 1);
    tcase_add_loop_test(bits, test_softmax_of_many_lengths, 0, 2);
    suite_add_tcase(suite, bits);
    tcase_set_timeout(refused, 60);
    tcase_add_test(refused, test_what_is_refused);
    tcase_add_test(refused, test_no_gpu);
    tcase_add_test(refused, test_asked_without_tensors);
    tcase_add_test(refused, test_what_rows_are_refused);
    tcase_add_test(refused, test_as_much_as_there_can_be);
    tcase_add_test(refused, test_words);
    suite_add_tcase(suite, refused);
    tcase_set_timeout(threads, 120);
    tcase_add_test(threads, test_many_at_once);
    tcase_add_test(threads, test_threads_of_a_call);
    tcase_add_loop_test(threads, test_threads_change_no_bit_of_a_row, 0, 6);
    suite_add_tcase(suite, threads);
    return suite;
}

/*
 * The library on a GPU: what it computes has the bits of the step that it calls, in whatever layout tensors lie, and beside other
 * calls; on Hopper PyTorch's layout is not copied. All in one process: see main_gpu.c.
 */
#include <limits.h>
#include <math.h>
#include <pthread.h>

#include "library_tensors.h"
#include "steps.h"
#include "streams.h"
#include "suites.h"

/* ---- tensors on the GPU: as a CPU's, `askew` elements behind where they would begin */

struct placed {
    struct strided of;  /* its buffer is the GPU's */
    char *data;
};

static struct placed place(const struct strided *t, enum dtype dtype, int askew)
{
    struct placed p = { .of = *t };
    size_t before = (size_t)askew * dtype_bytes(dtype);
    p.of.b = buffer_new(t->b.bytes + before, &gpu_device);
    p.data = (char *)p.of.b.data + before;
    gpu_upload(p.data, t->b.data, t->b.bytes);
    return p;
}

/* What lies there now, beside which nobody has written; and that is the end of it. */
static void take_back(struct placed *p, struct strided *t)
{
    gpu_download(t->b.data, p->data, t->b.bytes);
    REQUIRE(buffer_guards_intact(&p->of.b), "something behind a tensor was written");
    buffer_free(&p->of.b);
}

static struct fsa_in from(const struct placed *p)
{
    return (struct fsa_in){ p->data, p->of.batch, p->of.head, p->of.seq };
}

static struct fsa_out to(const struct placed *p)
{
    return (struct fsa_out){ p->data, p->of.batch, p->of.head, p->of.seq };
}

static struct buffer upload(const struct buffer *host)
{
    struct buffer device = buffer_new(host->bytes, &gpu_device);
    gpu_upload(device.data, host->data, host->bytes);
    return device;
}

/* ---- a call with just the workspace that it asks for, behind an odd address, poisoned; refused with a byte less; and again with
   the workspace as it is */

typedef enum fsa_status call_fn(void *with, struct fsa_run *run);

static void call(call_fn *f, void *with, const char *what)
{
    struct fsa_run run = { .device = FSA_GPU, .flags = FSA_ASK };
    enum fsa_status status = f(with, &run);
    REQUIRE(status == FSA_OK, "%s: asked: %s", what, fsa_words((int32_t)status));
    size_t needed = run.needed;
    struct buffer workspace = buffer_new(needed + 1, &gpu_device);
    run.flags = 0;
    if (needed) {
        run.workspace = (char *)workspace.data + 1;
        run.bytes = needed - 1;
        ck_assert_int_eq(f(with, &run), FSA_WORKSPACE);
    }
    run.bytes = needed;
    for (int i = 0; i < 2; i++) {
        run.flags = i ? FSA_KEPT : 0;
        status = f(with, &run);
        REQUIRE(status == FSA_OK && run.needed == needed, "%s: %s", what, fsa_words((int32_t)status));
    }
    gpu_finish(what);
    REQUIRE(buffer_guards_intact(&workspace), "%s: behind the workspace", what);
    buffer_free(&workspace);
}

/* ---- what the steps make of a problem: tensors dense, of the step's type, and filled up to its heads */

/* The step that the library takes, and the type and the heads that this wants. */
struct chosen {
    const struct attention_step *step;
    enum dtype as;
    int64_t dim;
};

static struct chosen choose(const struct problem *x)
{
    const struct attention_step *fast[] = { &optimistic_attention, &lean_attention };
    int64_t dim = x->p.dim <= 64 ? 64 : 128;
    if (x->p.seq_q <= 16) {
        bool tiles = attention_has(&streamed_attention, &gpu_device, x->dtype) && (x->p.dim == 64 || x->p.dim == 128) &&
                     !attention_gpu_missing(&streamed_attention, x->dtype, x->p.dim);
        const struct attention_step *cores = x->p.heads * x->p.seq_q == x->p.kv_heads ? &split_attention : &grouped_attention;
        return (struct chosen){ tiles ? &streamed_attention : cores, x->dtype, x->p.dim };
    }
    for (int i = 0; i < 2; i++)
        if (x->p.dim <= dim && attention_has(fast[i], &gpu_device, x->dtype) && !attention_gpu_missing(fast[i], x->dtype, dim))
            return (struct chosen){ fast[i], x->dtype, dim };
    return (struct chosen){ &register_tiled_attention, FP32, x->p.dim };
}

static struct buffer changed(const struct buffer *x, enum dtype from_type, int64_t dim, enum dtype to_type, int64_t to_dim)
{
    int64_t rows = (int64_t)(x->bytes / dtype_bytes(from_type)) / dim;
    struct buffer y = buffer_new((size_t)(rows * to_dim) * dtype_bytes(to_type), &cpu_device);
    for (int64_t i = 0; i < rows * to_dim; i++) {
        int64_t row = i / to_dim, column = i % to_dim;
        element_set(y.data, to_type, i, column < dim ? element(x->data, from_type, row * dim + column) : 0.0);
    }
    return y;
}

/* x->O and x->lse, by the step. */
static void by_step(struct problem *x)
{
    struct chosen c = choose(x);
    struct attention p = x->p;
    p.dim = c.dim;
    struct buffer *of[] = { &x->O, &x->q, &x->k, &x->v }, lse = upload(&x->lse), device[4];
    for (int i = 0; i < 4; i++) {
        struct buffer b = changed(of[i], x->dtype, x->p.dim, c.as, p.dim);
        device[i] = upload(&b);
        buffer_free(&b);
    }
    struct buffer workspace = buffer_new((c.step->workspace ? c.step->workspace(p, c.as) : 0) + 1, &gpu_device),
                  O = buffer_new(device[0].bytes, &cpu_device);
    gpu_fill(workspace.data, 0, workspace.bytes);
    attention_run(c.step, &gpu_device, c.as, device[0].data, lse.data, device[1].data, device[2].data, device[3].data, p,
                  workspace.data, NULL);
    gpu_finish(c.step->name);
    gpu_download(O.data, device[0].data, O.bytes);
    gpu_download(x->lse.data, lse.data, lse.bytes);
    buffer_free(&x->O);
    x->O = changed(&O, c.as, p.dim, x->dtype, x->p.dim);
    buffer_free(&O), buffer_free(&lse), buffer_free(&workspace);
    for (int i = 0; i < 4; i++)
        buffer_free(&device[i]);
}

/* ---- attention */

struct attention_call {
    struct fsa_problem p;
    struct placed O, q, k, v;
    float *lse;
    const struct fsa_cache *cache; /* fsa_decode */
};

static enum fsa_status do_attention(void *with, struct fsa_run *run)
{
    struct attention_call *c = with;
    struct fsa_out O = to(&c->O);
    struct fsa_in q = from(&c->q), k = from(&c->k), v = from(&c->v);
    return c->cache ? fsa_decode(&c->p, &O, c->lse, &q, &k, &v, c->cache, run)
                    : fsa_attention(&c->p, &O, c->lse, &q, &k, &v, run);
}

/* batch, heads, kv_heads, seq_q, seq_k, dim, causal, scale */
static const struct attention shapes[] = {
    { 3, 4, 2, 1, 300, 64, false, 0.125f }, { 2, 6, 2, 16, 200, 40, true, 0.2f },    { 2, 4, 1, 17, 33, 64, true, -0.5f },
    { 1, 3, 3, 70, 70, 128, true, 0.1f },   { 2, 2, 2, 100, 61, 5, true, 0.4f },     { 5, 3, 1, 300, 391, 128, false, 0.1f },
    { 2, 8, 2, 1, 2100, 128, false, 0.2f }, { 1, 2, 1, 49, 257, 256, false, 0.06f }, { 3, 5, 5, 200, 200, 96, true, 0.1f },
    { 4, 1, 1, 150, 90, 64, true, 0.125f }, { 7, 12, 4, 391, 500, 64, true, 0.1f },
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* One call, held to what the step left in x. k: the sizes of x->k and x->v, which are perhaps a pool of pages. */
static void check_attention(struct problem *x, struct sizes k, enum layout queries, enum layout keys, enum layout values,
                            int askew, const struct fsa_cache *cache)
{
    char what[200];
    snprintf(what, sizeof what, "%s, %d x %d, heads of %d, queries %s, keys %s, values %s, askew by %d", dtype_name(x->dtype),
             (int)x->p.seq_q, (int)x->p.seq_k, (int)x->p.dim, layout_names[queries], layout_names[keys], layout_names[values],
             askew);
    struct sizes q = queries_of(&x->p), n[] = { q, q, k, k };
    enum layout layouts[] = { queries, queries, keys, values };
    struct buffer *of[] = { &x->O, &x->q, &x->k, &x->v }, got = buffer_new(x->O.bytes, &cpu_device),
                  got_lse = buffer_new(x->lse.bytes, &cpu_device), lse = buffer_new(x->lse.bytes, &gpu_device);
    struct attention_call c = { .p = problem_of(x), .lse = lse.data, .cache = cache };
    struct placed *to[] = { &c.O, &c.q, &c.k, &c.v };
    struct strided host[4];
    for (int i = 0; i < 4; i++) {
        host[i] = strided_new(layouts[i], n[i], x->dtype);
        if (i > 0)
            move(&host[i], of[i]->data, n[i], x->dtype, false);
        *to[i] = place(&host[i], x->dtype, i % 2 ? askew : 0);
    }
    call(do_attention, &c, what);
    gpu_download(got_lse.data, lse.data, lse.bytes);
    REQUIRE(same(&got_lse, &x->lse) && buffer_guards_intact(&lse), "%s: lse has other bits", what);
    for (int i = 0; i < 4; i++) {
        take_back(to[i], &host[i]);
        if (i > 0) { /* it is as it was */
            struct buffer again = buffer_new(of[i]->bytes, &cpu_device);
            move(&host[i], again.data, n[i], x->dtype, true);
            REQUIRE(same(&again, of[i]), "%s: input %d was written", what, i);
            buffer_free(&again);
        }
    }
    move(&host[0], got.data, q, x->dtype, true);
    REQUIRE(same(&got, &x->O), "%s: O has other bits", what);
    REQUIRE(untouched(&host[0], q, x->dtype), "%s: something beside O was written", what);
    for (int i = 0; i < 4; i++)
        buffer_free(&host[i].b);
    buffer_free(&got), buffer_free(&got_lse), buffer_free(&lse);
}

START_TEST(test_attention_in_any_layout)
{
    static const struct fsa_cache all = { NULL, NULL, 0, 0, 0 };
    struct problem x = problem_new(shapes[_i / 3], (enum dtype)(_i % 3));
    by_step(&x);
    for (int keys = 0; keys < LAYOUTS; keys++)
        for (int i = 0; i < 2; i++)
            check_attention(&x, keys_of(&x.p), (enum layout)((keys + 3 * i) % LAYOUTS), (enum layout)keys,
                            (enum layout)((keys + 2 * i) % LAYOUTS), 0, i ? &all : NULL);
    check_attention(&x, keys_of(&x.p), DENSE, DENSE, DENSE, 1, NULL);
    check_attention(&x, keys_of(&x.p), BY_POSITION, BY_POSITION, BY_POSITION, 8, NULL);
    problem_free(&x);
}
END_TEST

/* x->O and x->lse by step 41, each sequence a page, and told what the library can know of lengths, which are on the GPU. */
static void by_step_30(struct problem *x, const int32_t *lengths)
{
    struct attention p = x->p;
    struct buffer *of[] = { &x->O, &x->q, &x->k, &x->v }, lse = upload(&x->lse), device[4],
                  iota = buffer_new((size_t)p.batch * sizeof(int32_t), &cpu_device);
    for (int i = 0; i < p.batch; i++)
        ((int32_t *)iota.data)[i] = i;
    struct buffer table = upload(&iota);
    struct pages g = { p.seq_k, p.batch, 1, p.batch * p.seq_k - (lengths ? 1 : 0), table.data, lengths };
    struct buffer workspace = buffer_new(paged_attention.paged.workspace(p, g, x->dtype) + 1, &gpu_device);
    gpu_fill(workspace.data, 0, workspace.bytes);
    void *t[4];
    for (int i = 0; i < 4; i++) {
        device[i] = upload(of[i]);
        t[i] = device[i].data;
    }
    paged_run(&paged_attention, &gpu_device, x->dtype, t[0], lse.data, t[1], t[2], t[3], g, p, workspace.data, NULL);
    gpu_finish("step 41");
    gpu_download(x->O.data, device[0].data, x->O.bytes);
    gpu_download(x->lse.data, lse.data, lse.bytes);
    for (int i = 0; i < 4; i++)
        buffer_free(&device[i]);
    buffer_free(&lse), buffer_free(&iota), buffer_free(&table), buffer_free(&workspace);
}

enum { BATCH = 5, PAGE = 16, MOST = 19, POOL = 96 };

/* The keys that sequences have, in pages of a pool; all else is poison. */
static struct buffer pool_of(const struct problem *x, const struct buffer *keys, struct sizes n, const int32_t *lengths,
                             const int32_t *table)
{
    size_t row = (size_t)n.dim * dtype_bytes(x->dtype);
    struct buffer pool = buffer_new((size_t)count_of(n) * dtype_bytes(x->dtype), &cpu_device);
    for (int64_t b = 0; b < x->p.batch; b++)
        for (int64_t key = 0; key < lengths[b]; key++)
            for (int64_t head = 0; head < n.heads; head++) {
                int64_t to = (table[b * MOST + key / PAGE] * n.heads + head) * PAGE + key % PAGE;
                int64_t of = (b * n.heads + head) * x->p.seq_k + key;
                memcpy((char *)pool.data + (size_t)to * row, (char *)keys->data + (size_t)of * row, row);
            }
    return pool;
}

/* Of one length or of several, in pages as step 41 has them, as (pool, page, heads, dim), and with room between; the table has no
   pages behind a sequence's own. */
START_TEST(test_pages)
{
    static const enum layout layouts[] = { DENSE, BY_POSITION, BESIDE_ANOTHER };
    enum dtype dtype = _i % 2 ? BF16 : FP16;
    bool ragged = _i / 2 % 2;
    int64_t dim = _i / 4 ? 128 : 64;
    if (attention_gpu_missing(&paged_attention, dtype, dim)) {
        printf("skipped: pages: this GPU is none for step 41\n");
        return;
    }
    const int32_t some[BATCH] = { 290, 0, 1, 33, 257 }, all[BATCH] = { 290, 290, 290, 290, 290 }, *lengths = ragged ? some : all;
    struct buffer table = buffer_new(BATCH * MOST * sizeof(int32_t), &cpu_device),
                  seqlens = buffer_new(sizeof some, &cpu_device);
    memcpy(seqlens.data, lengths, sizeof some);
    int32_t *page = table.data;
    for (int b = 0, used = 0; b < BATCH; b++)
        for (int i = 0; i < MOST; i++)
            page[b * MOST + i] = i * PAGE < lengths[b] ? used++ * 7 % POOL : -1; /* each once: 7 and 96 have no divisor */
    struct buffer table_there = upload(&table), seqlens_there = upload(&seqlens);
    const struct fsa_cache one_page = { ragged ? seqlens_there.data : NULL, NULL, 0, 0, 0 },
                           pages = { one_page.seqlens, table_there.data, PAGE, POOL, MOST };
    struct problem x = problem_new((struct attention){ BATCH, 8, 2, 3, 290, dim, true, 0.15f }, dtype);
    struct sizes n = { POOL, 2, PAGE, dim };
    by_step_30(&x, one_page.seqlens);
    for (int layout = 0; layout < LAYOUTS && ragged; layout++)
        check_attention(&x, keys_of(&x.p), DENSE, (enum layout)layout, (enum layout)layout, layout % 2, &one_page);
    struct buffer k = pool_of(&x, &x.k, n, lengths, page), v = pool_of(&x, &x.v, n, lengths, page);
    buffer_free(&x.k), buffer_free(&x.v);
    x.k = k, x.v = v;
    for (int i = 0; i < 3; i++)
        check_attention(&x, n, GAPS, layouts[i], layouts[i], 0, &pages);
    buffer_free(&table), buffer_free(&seqlens), buffer_free(&table_there), buffer_free(&seqlens_there);
    problem_free(&x);
}
END_TEST

/* On Hopper tensors in PyTorch's layout, and others whose rows begin on multiples of 16 bytes, are no reason for a copy. */
START_TEST(test_nothing_is_copied)
{
    if (!gpu_built_for().hopper) {
        printf("skipped: layouts without a copy: this GPU is no Hopper, or the build not for it\n");
        return;
    }
    static const enum layout layouts[] = { DENSE, BY_POSITION, ROOM_BEHIND, BESIDE_ANOTHER, GAPS };
    struct fsa_problem p = { 4, 8, 2, 300, 500, 128, 0.1f, 1, FSA_BF16 };
    struct sizes n[] = { { 4, 8, 300, 128 }, { 4, 2, 500, 128 } };
    for (int i = 0; i < 5; i++) {
        struct strided q = strided_new(layouts[i], n[0], BF16), k = strided_new(layouts[i], n[1], BF16);
        struct fsa_run run = { .device = FSA_GPU, .flags = FSA_ASK };
        struct fsa_in Q = { NULL, q.batch, q.head, q.seq }, K = { NULL, k.batch, k.head, k.seq };
        struct fsa_out O = { NULL, q.batch, q.head, q.seq };
        ck_assert_int_eq(fsa_attention(&p, &O, NULL, &Q, &K, &K, &run), FSA_OK);
        REQUIRE((run.needed < 1000) == (i < 4), "%s: %zu bytes", layout_names[layouts[i]], run.needed);
        buffer_free(&q.b), buffer_free(&k.b);
    }
}
END_TEST

/* ---- backward: dK and dV have the step's bits; a GPU adds up dQ in any order */

struct backward_call {
    struct fsa_problem p;
    struct placed t[8]; /* dQ, dK, dV, Q, K, V, O, dO */
    const float *lse, *dlse;
};

static enum fsa_status do_backward(void *with, struct fsa_run *run)
{
    struct backward_call *c = with;
    struct fsa_out out[3];
    struct fsa_in in[5];
    for (int i = 0; i < 8; i++)
        if (i < 3)
            out[i] = to(&c->t[i]);
        else
            in[i - 3] = from(&c->t[i]);
    return fsa_attention_backward(&c->p, &out[0], &out[1], &out[2], &in[0], &in[1], &in[2], &in[3], c->lse, &in[4], c->dlse, run);
}

static void backward_by_step(struct buffer *want, const struct problem *x, const struct buffer *dO, const float *lse,
                             const float *dlse)
{
    const struct buffer *of[] = { &want[0], &want[1], &want[2], &x->q, &x->k, &x->v, &x->O, dO };
    int64_t dim = x->p.dim <= 64 ? 64 : 128;
    const struct attention_step *step = x->dtype == FP32 || x->p.dim > dim                               ? &joined_backward
                                        : !attention_gpu_missing(&hopper_backward, x->dtype, dim)      ? &hopper_backward
                                        : !attention_gpu_missing(&staged_backward, x->dtype, dim)      ? &staged_backward
                                                                                                       : &joined_backward;
    bool fast = step != &joined_backward;
    enum dtype as = fast ? x->dtype : FP32;
    struct attention p = x->p;
    p.dim = fast ? dim : p.dim;
    struct buffer device[8], w = buffer_new(step->workspace(p, as) + 1, &gpu_device);
    void *t[8];
    for (int i = 0; i < 8; i++) {
        struct buffer b = changed(of[i], x->dtype, x->p.dim, as, p.dim);
        device[i] = upload(&b);
        t[i] = device[i].data;
        buffer_free(&b);
    }
    if (as == FP16)
        step->backward.gpu_fp16(t[0], t[1], t[2], t[3], t[4], t[5], t[6], lse, t[7], dlse, p, w.data, NULL);
    else if (as == BF16)
        step->backward.gpu_bf16(t[0], t[1], t[2], t[3], t[4], t[5], t[6], lse, t[7], dlse, p, w.data, NULL);
    else
        step->backward.gpu(t[0], t[1], t[2], t[3], t[4], t[5], t[6], lse, t[7], dlse, p, w.data, NULL);
    gpu_finish(step->name);
    for (int i = 0; i < 8; i++) {
        if (i < 3) {
            struct buffer b = buffer_new(device[i].bytes, &cpu_device);
            gpu_download(b.data, device[i].data, b.bytes);
            buffer_free(&want[i]);
            want[i] = changed(&b, as, p.dim, x->dtype, x->p.dim);
            buffer_free(&b);
        }
        buffer_free(&device[i]);
    }
    buffer_free(&w);
}

static bool nearly_same(const struct buffer *a, const struct buffer *b, enum dtype dtype)
{
    double most = 0, off = 0, unit = dtype == FP32 ? 0x1p-18 : dtype == FP16 ? 0x1p-9 : 0x1p-6;
    for (int64_t i = 0; i < (int64_t)(a->bytes / dtype_bytes(dtype)); i++) {
        double x = element(a->data, dtype, i), y = element(b->data, dtype, i);
        most = fmax(most, fabs(y));
        off = fabs(x - y) <= off ? off : fabs(x - y); /* NaN stays */
    }
    return off <= unit * most;
}

START_TEST(test_backward_in_any_layout)
{
    struct problem x = problem_new(shapes[_i / 3], (enum dtype)(_i % 3));
    struct sizes q = queries_of(&x.p), k = keys_of(&x.p), of[] = { q, k, k, q, k, k, q, q };
    by_step(&x);
    struct buffer dO = filled(count_of(q) / q.dim, q.dim, x.dtype, 4), dlse = filled(count_of(q) / q.dim, 1, FP32, 5), want[3],
                  *in[] = { &x.q, &x.k, &x.v, &x.O, &dO }, lse_there = upload(&x.lse), dlse_there = upload(&dlse);
    for (int i = 0; i < 3; i++)
        want[i] = buffer_new((size_t)count_of(of[i]) * dtype_bytes(x.dtype), &cpu_device);
    backward_by_step(want, &x, &dO, lse_there.data, dlse_there.data);
    for (int layout = 0; layout < LAYOUTS; layout++) {
        struct backward_call c = { .p = problem_of(&x), .lse = lse_there.data, .dlse = dlse_there.data };
        struct strided host[8];
        for (int i = 0; i < 8; i++) {
            host[i] = strided_new((enum layout)(layout ? (layout + i) % LAYOUTS : DENSE), of[i], x.dtype);
            if (i >= 3)
                move(&host[i], in[i - 3]->data, of[i], x.dtype, false);
            c.t[i] = place(&host[i], x.dtype, layout == 1 && i % 3 == 0);
        }
        call(do_backward, &c, layout_names[layout]);
        for (int i = 0; i < 8; i++) {
            take_back(&c.t[i], &host[i]);
            if (i < 3) {
                struct buffer got = buffer_new(want[i].bytes, &cpu_device);
                move(&host[i], got.data, of[i], x.dtype, true);
                REQUIRE(i == 0 ? nearly_same(&got, &want[i], x.dtype) : same(&got, &want[i]), "gradient %d, %s: other bits", i,
                        layout_names[layout]);
                REQUIRE(untouched(&host[i], of[i], x.dtype), "gradient %d, %s: something beside it was written", i,
                        layout_names[layout]);
                buffer_free(&got);
            }
            buffer_free(&host[i].b);
        }
    }
    for (int i = 0; i < 3; i++)
        buffer_free(&want[i]);
    buffer_free(&dO), buffer_free(&dlse), buffer_free(&lse_there), buffer_free(&dlse_there), problem_free(&x);
}
END_TEST

/* ---- softmax */

struct rows_call {
    struct placed y, x, dy; /* dy has data where it is the gradient that is asked for, and x is y then */
    int64_t rows, cols;
    int32_t dtype;
};

static enum fsa_status do_rows(void *with, struct fsa_run *run)
{
    struct rows_call *c = with;
    if (c->dy.data)
        return fsa_softmax_backward(c->y.data, c->y.of.seq, c->x.data, c->x.of.seq, c->dy.data, c->dy.of.seq, c->rows, c->cols,
                                    c->dtype, run);
    return fsa_softmax(c->y.data, c->y.of.seq, c->x.data, c->x.of.seq, c->rows, c->cols, c->dtype, run);
}

/* What the step makes of x, or of y and dy, on a GPU. */
static void rows_by_step(struct buffer *out, const struct buffer *x, const struct buffer *dy, struct sizes n, enum dtype dtype)
{
    enum dtype as = dy ? FP32 : dtype;
    struct buffer in = changed(x, dtype, 1, as, 1), change = dy ? changed(dy, dtype, 1, as, 1) : (struct buffer){ 0 },
                  a = upload(&in), b = dy ? upload(&change) : (struct buffer){ 0 }, y = buffer_new(in.bytes, &gpu_device),
                  w = buffer_new(split_softmax.workspace(n.seq, n.dim, as) + 1, &gpu_device);
    gpu_fill(w.data, 0, w.bytes);
    if (dy)
        softmax_backward.backward_gpu(y.data, a.data, b.data, n.seq, n.dim, NULL, NULL);
    else
        softmax_run(&split_softmax, &gpu_device, dtype, y.data, a.data, n.seq, n.dim, w.data);
    gpu_finish("the step");
    gpu_download(in.data, y.data, in.bytes);
    *out = changed(&in, as, 1, dtype, 1);
    buffer_free(&in), buffer_free(&a), buffer_free(&y), buffer_free(&w);
    if (dy)
        buffer_free(&change), buffer_free(&b);
}

static void check_rows(const struct buffer *want, const struct buffer *x, const struct buffer *dy, struct sizes n,
                       enum dtype dtype, enum layout of_y, enum layout of_x, int askew)
{
    char what[160];
    snprintf(what, sizeof what, "%s%s, %d x %d, %s, from %s, askew by %d", dtype_name(dtype), dy ? ", gradient" : "", (int)n.seq,
             (int)n.dim, layout_names[of_y], layout_names[of_x], askew);
    struct strided hx = strided_new(of_x, n, dtype), hy = strided_new(of_y, n, dtype), hd = strided_new(of_y, n, dtype);
    struct rows_call c = { .rows = n.seq, .cols = n.dim, .dtype = (int32_t)dtype };
    move(&hx, x->data, n, dtype, false);
    c.x = place(&hx, dtype, askew), c.y = place(&hy, dtype, 0);
    if (dy) {
        move(&hd, dy->data, n, dtype, false);
        c.dy = place(&hd, dtype, 0);
    }
    call(do_rows, &c, what);
    take_back(&c.y, &hy), take_back(&c.x, &hx);
    if (dy)
        take_back(&c.dy, &hd);
    struct buffer got = buffer_new(want->bytes, &cpu_device);
    move(&hy, got.data, n, dtype, true);
    REQUIRE(same(&got, want), "%s: other bits", what);
    REQUIRE(untouched(&hy, n, dtype), "%s: something beside y was written", what);
    buffer_free(&got), buffer_free(&hx.b), buffer_free(&hy.b), buffer_free(&hd.b);
}

/* y in place of x, once. */
static void check_in_place(const struct buffer *want, const struct buffer *x, struct sizes n, enum dtype dtype)
{
    struct strided host = strided_new(DENSE, n, dtype);
    struct fsa_run run = { .device = FSA_GPU, .flags = FSA_ASK };
    move(&host, x->data, n, dtype, false);
    struct placed t = place(&host, dtype, 0);
    ck_assert_int_eq(fsa_softmax(t.data, 0, t.data, 0, n.seq, n.dim, (int32_t)dtype, &run), FSA_OK);
    struct buffer workspace = buffer_new(run.needed + 1, &gpu_device);
    run = (struct fsa_run){ .device = FSA_GPU, .workspace = workspace.data, .bytes = workspace.bytes };
    ck_assert_int_eq(fsa_softmax(t.data, 0, t.data, 0, n.seq, n.dim, (int32_t)dtype, &run), FSA_OK);
    gpu_finish("in place");
    take_back(&t, &host);
    REQUIRE(same(&host.b, want), "%s, %d x %d, in place: other bits", dtype_name(dtype), (int)n.seq, (int)n.dim);
    buffer_free(&host.b), buffer_free(&workspace);
}

START_TEST(test_softmax_in_any_layout)
{
    static const int64_t rows[] = { 1, 3, 50 }, cols[] = { 1, 31, 64, 1000, 4096, 4099, 100003, 1100000 };
    enum dtype dtype = (enum dtype)_i;
    for (int i = 0; i < 3 * 8; i++) {
        struct sizes n = { 1, 1, rows[i % 3], cols[i / 3] };
        struct buffer x = filled(n.seq, n.dim, dtype, 7), dy = filled(n.seq, n.dim, dtype, 8), y, dx;
        rows_by_step(&y, &x, NULL, n, dtype);
        rows_by_step(&dx, &y, &dy, n, dtype);
        for (int layout = 0; layout < 5; layout++) {
            enum layout of_y = layout & 1 ? GAPS : DENSE, of_x = layout & 2 ? GAPS : DENSE;
            check_rows(&y, &x, NULL, n, dtype, of_y, of_x, layout == 4);
            check_rows(&dx, &y, &dy, n, dtype, of_y, of_x, layout == 4);
        }
        check_in_place(&y, &x, n, dtype);
        buffer_free(&x), buffer_free(&y), buffer_free(&dx), buffer_free(&dy);
    }
}
END_TEST

/* ---- what is refused here, besides what check_library.c has */

START_TEST(test_what_is_refused)
{
    struct buffer t = buffer_new(1 << 16, &gpu_device);
    char *at = t.data;
    struct fsa_problem p = { 2, 2, 2, 1, 24, 8, 1, 1, FSA_FP16 };
    struct fsa_in q = { at, 0, 0, 0 }, k = { at + 4096, 0, 0, 0 }, v = { at + 8192, 0, 0, 0 };
    struct fsa_out O = { at + 16384, 0, 0, 0 };
    struct fsa_run run = { .device = FSA_GPU, .workspace = at + 32768, .bytes = 32768 };
    struct fsa_cache lengths = { (int32_t *)(at + 20480), NULL, 0, 0, 0 }, pages = { NULL, (int32_t *)(at + 20480), 12, 2, 2 };
    ck_assert_int_eq(fsa_decode(&p, &O, NULL, &q, &k, &v, &lengths, &run), FSA_UNSUPPORTED);
    ck_assert_int_eq(fsa_decode(&p, &O, NULL, &q, &k, &v, &pages, &run), FSA_UNSUPPORTED);
    run.flags = 4;
    ck_assert_int_eq(fsa_attention(&p, &O, NULL, &q, &k, &v, &run), FSA_FLAG);
    run.flags = 0, run.device = 2;
    ck_assert_int_eq(fsa_attention(&p, &O, NULL, &q, &k, &v, &run), FSA_DEVICE);
    run.device = FSA_GPU, O.data = at;
    ck_assert_int_eq(fsa_attention(&p, &O, NULL, &q, &k, &v, &run), FSA_OVERLAP);
    O.data = NULL;
    ck_assert_int_eq(fsa_attention(&p, &O, NULL, &q, &k, &v, &run), FSA_NULL);
    O.data = at + 16384, p.batch = (int64_t)1 << 40; /* more rows than a grid has blocks */
    ck_assert_int_eq(fsa_attention(&p, &O, NULL, &q, &k, &v, &run), FSA_SIZE);
    struct fsa_problem paged = { 2, 2, 2, 1, 24, 64, 1, 1, FSA_FP16 };
    pages = (struct fsa_cache){ NULL, (int32_t *)(at + 30720), 12, 2, 2 };
    k.data = at + 4096 + 2, v.data = at + 20480, O.data = at + 1024;
    ck_assert_int_eq(fsa_decode(&paged, &O, NULL, &q, &k, &v, &pages, &run), FSA_ALIGNMENT);
    ck_assert_str_eq(run.what, "K");
    k = (struct fsa_in){ at + 4096, 1600, 800, 65 };
    ck_assert_int_eq(fsa_decode(&paged, &O, NULL, &q, &k, &v, &pages, &run), FSA_STRIDE);
    k = (struct fsa_in){ at + 4096, 0, 0, 0 }, run.bytes = 8;
    pages.seqlens = pages.table, pages.table = NULL, q.data = at + 2; /* to be copied */
    ck_assert_int_eq(fsa_decode(&paged, &O, NULL, &q, &k, &v, &pages, &run), FSA_WORKSPACE);
    paged.dtype = FSA_FP32, q.data = at;
    ck_assert_int_eq(fsa_decode(&paged, &O, NULL, &q, &k, &v, &pages, &run), FSA_UNSUPPORTED);
    ck_assert_str_eq(run.what, "seqlens");
    gpu_finish("what is refused");
    struct buffer host = buffer_new(t.bytes, &cpu_device);
    gpu_download(host.data, t.data, t.bytes);
    for (size_t i = 0; i < host.bytes; i++)
        REQUIRE(((unsigned char *)host.data)[i] == 0xff, "byte %zu was written", i);
    buffer_free(&t), buffer_free(&host);
}
END_TEST

/* ---- threads, each with a stream and a workspace of its own */

enum { CALLERS = 6, ROUNDS = 100 };

struct caller {
    pthread_t thread;
    cudaStream_t stream;
    struct attention_call c;
    struct placed first; /* O as it came out alone */
    struct buffer workspace, differs;
    int wrong;
};

static void *again_and_again(void *arg)
{
    struct caller *a = arg;
    for (int i = 0; i < ROUNDS; i++) {
        struct fsa_run run = { .device = FSA_GPU, .stream = a->stream, .workspace = a->workspace.data,
                               .bytes = a->workspace.bytes };
        run.flags = i % 2 ? FSA_KEPT : 0;
        stream_poison(a->c.O.data, a->c.O.of.b.bytes, a->stream);
        a->wrong += do_attention(&a->c, &run) != FSA_OK;
        stream_compare(a->differs.data, a->c.O.data, a->first.data, a->first.of.b.bytes, (unsigned)i, a->stream);
    }
    return NULL;
}

START_TEST(test_many_at_once)
{
    static const int of[CALLERS] = { 0, 3, 5, 6, 10, 5 };
    struct caller a[CALLERS] = { { .wrong = 0 } };
    for (int i = 0; i < CALLERS; i++) {
        struct problem x = problem_new(shapes[of[i]], i % 2 ? BF16 : FP16);
        struct sizes q = queries_of(&x.p), k = keys_of(&x.p), n[] = { q, q, k, k };
        struct buffer *in[] = { &x.O, &x.q, &x.k, &x.v };
        struct placed *to[] = { &a[i].c.O, &a[i].c.q, &a[i].c.k, &a[i].c.v };
        by_step(&x);
        for (int t = 0; t < 4; t++) {
            struct strided host = strided_new(t ? BY_POSITION : DENSE, n[t], x.dtype);
            move(&host, in[t]->data, n[t], x.dtype, false);
            *to[t] = place(&host, x.dtype, 0);
            if (t == 0)
                a[i].first = place(&host, x.dtype, 0);
            buffer_free(&host.b);
        }
        a[i].c.p = problem_of(&x);
        a[i].workspace = buffer_new(64 << 20, &gpu_device);
        a[i].differs = buffer_new(sizeof(unsigned), &gpu_device);
        a[i].stream = stream_new();
        problem_free(&x);
    }
    gpu_finish("by the steps");
    for (int i = 0; i < CALLERS; i++)
        ck_assert_int_eq(pthread_create(&a[i].thread, NULL, again_and_again, &a[i]), 0);
    for (int i = 0; i < CALLERS; i++)
        pthread_join(a[i].thread, NULL);
    gpu_finish("many at once");
    for (int i = 0; i < CALLERS; i++) {
        unsigned differs;
        gpu_download(&differs, a[i].differs.data, sizeof differs);
        ck_assert_msg(a[i].wrong == 0 && differs == UINT_MAX, "caller %d: %d refused, other bits from round %u on", i, a[i].wrong,
                      differs);
        struct buffer *all[] = { &a[i].c.O.of.b, &a[i].c.q.of.b, &a[i].c.k.of.b, &a[i].c.v.of.b, &a[i].first.of.b,
                                 &a[i].workspace, &a[i].differs };
        for (int t = 0; t < 7; t++)
            buffer_free(all[t]);
        stream_free(a[i].stream);
    }
}
END_TEST

Suite *library_gpu_suite(void)
{
    Suite *suite = suite_create("library_gpu");
    TCase *bits = tcase_create("bits"), *pages = tcase_create("pages"), *backward = tcase_create("backward"),
          *rows = tcase_create("rows"), *refused = tcase_create("refused"), *threads = tcase_create("threads");
    tcase_add_loop_test(bits, test_attention_in_any_layout, 0, 3 * SHAPES);
    tcase_add_test(bits, test_nothing_is_copied);
    suite_add_tcase(suite, bits);
    tcase_add_loop_test(pages, test_pages, 0, 8);
    suite_add_tcase(suite, pages);
    tcase_add_loop_test(backward, test_backward_in_any_layout, 0, 3 * SHAPES);
    suite_add_tcase(suite, backward);
    tcase_add_loop_test(rows, test_softmax_in_any_layout, FP32, BF16 + 1);
    suite_add_tcase(suite, rows);
    tcase_add_test(refused, test_what_is_refused);
    suite_add_tcase(suite, refused);
    tcase_add_test(threads, test_many_at_once);
    suite_add_tcase(suite, threads);
    return suite;
}

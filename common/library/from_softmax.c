/*
 * The library's functions: each names its tensors, and calls a step of a CPU; on_gpu.c has those of a GPU. call.h says how a call
 * goes. No file of a step knows of any of this.
 */
#include <math.h>
#if defined __APPLE__ || defined __unix__
#include <unistd.h>
#endif

#include "cache.h"
#include "chunk.h"
#include "inside.h"
#include "merge.h"

#define FEW 20 /* queries of a head, up to which fsa_attention reads keys as decoding does: step 15 takes as long for up to 48 */

/* ---- softmax: step 07, step 10 where threads share rows, and step 42 */

/* The first tensor is written. */
static struct tensor *rows_of(struct call *c, const char *name, const void *data, int64_t stride, int64_t rows, int64_t cols)
{
    return tensor(c, name, data, (int64_t[]){ 0, 0, stride }, (struct sizes){ 1, 1, rows, cols }, c->count == 0);
}

static void *row_of(const struct tensor *t, int64_t row)
{
    return element_at(t->data, row * t->stride[2], t->dtype);
}

/* What step 10 asks itself. In a virtual machine it takes long to ask for a cache's size: once will do, by whichever thread. */
static bool rows_are_shared(int64_t rows, int64_t cols)
{
    static _Atomic int64_t known;
    int64_t cache = known;
    if (cache == 0) {
#ifdef _SC_LEVEL2_CACHE_SIZE
        cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
        known = cache = cache > 0 ? cache : 1 << 20;
    }
    return rows < cpu_threads() || cols > 2 * cache / (int64_t)sizeof(float);
}

/* Bytes that a thread of step 07 takes, or step 10: exponentials, scales and states, for rows of `cols` columns. */
static size_t softmax_bytes(int64_t cols, bool shared)
{
    enum { BLOCK = 512, WAIT = 1024 }; /* of steps 07 and 10 */
    int64_t blocks = (cols + BLOCK - 1) / BLOCK, slots = cols < WAIT ? WAIT / cols : 1;
    int64_t floats = slots * ((cols + CHUNK - 1) / CHUNK * CHUNK + blocks);
    return lines((size_t)blocks * sizeof(struct softmax_state) + (size_t)(shared ? blocks : floats) * sizeof(float)) +
           3 * LINE; /* each on a line of its own */
}

/* Rows first to last - 1, at once if they lie side by side, and otherwise one by one. memory: what the step takes each time. */
static void softmax_rows(const struct call *c, bool shared, int64_t first, int64_t last, char *memory, size_t bytes)
{
    const struct tensor *y = &c->tensor[0], *x = &c->tensor[1];
    int64_t many = is_dense(y) && is_dense(x) ? last - first : 1, cols = x->n[3];
    for (int64_t row = first; row < last && !ran_out(); row += many) {
        enter(memory, bytes);
        if (shared)
            ON_CPU(c->dtype, split_softmax, row_of(y, row), row_of(x, row), many, cols);
        else
            ON_CPU(c->dtype, narrow_softmax, row_of(y, row), row_of(x, row), many, cols);
    }
}

enum fsa_status fsa_softmax(void *y, int64_t y_stride, const void *x, int64_t x_stride, int64_t rows, int64_t cols, int32_t dtype,
                            struct fsa_run *run)
{
    struct call c = begin(run, dtype);
    rows_of(&c, "y", y, y_stride, rows, cols);
    rows_of(&c, "x", x, x_stride, rows, cols);
    check_overlaps(&c, true);
    if (c.status)
        return c.status;
    if (c.gpu)
        return softmax_on_gpu(&c);
    bool shared = rows_are_shared(rows, cols), failed = false;
    size_t each = softmax_bytes(cols, shared);
    int threads = shared ? 1 : cpu_threads();
    if (!start(&c, each * (size_t)threads, false))
        return c.status;
    if (shared) {
        softmax_rows(&c, shared, 0, rows, c.memory, each);
        return finish(&c);
    }
#pragma omp parallel for reduction(|| : failed)
    for (int t = 0; t < threads; t++) { /* as step 07 has it; but each thread has its memory, and calls the step for itself */
        work_alone();
        softmax_rows(&c, shared, rows * t / threads, rows * (t + 1) / threads, (char *)c.memory + each * (size_t)t, each);
        failed = failed || ran_out();
    }
    fail(&c, failed, FSA_WORKSPACE, "workspace");
    return finish(&c);
}

enum fsa_status fsa_softmax_backward(void *dx, int64_t dx_stride, const void *y, int64_t y_stride, const void *dy,
                                     int64_t dy_stride, int64_t rows, int64_t cols, int32_t dtype, struct fsa_run *run)
{
    struct call c = begin(run, dtype);
    const struct tensor *to = rows_of(&c, "dx", dx, dx_stride, rows, cols), *of_y = rows_of(&c, "y", y, y_stride, rows, cols),
                        *of_dy = rows_of(&c, "dy", dy, dy_stride, rows, cols);
    check_overlaps(&c, true);
    if (!c.status && c.gpu)
        return softmax_backward_on_gpu(&c);
    if (!start(&c, 0, false))
        return c.status;
    if (is_dense(to) && is_dense(of_y) && is_dense(of_dy)) {
        ON_CPU(c.dtype, softmax_backward, dx, y, dy, rows, cols);
        return finish(&c);
    }
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        work_alone();
        ON_CPU(c.dtype, softmax_backward, row_of(to, row), row_of(of_y, row), row_of(of_dy, row), 1, cols);
    }
    return finish(&c);
}

/* ---- problems of attention */

static struct sizes of_queries(const struct call *c)
{
    return (struct sizes){ c->p.batch, c->p.heads, c->p.seq_q, c->p.dim };
}

static struct sizes of_keys(const struct call *c)
{
    return (struct sizes){ c->p.batch, c->p.kv_heads, c->p.seq_k, c->p.dim };
}

/* (batch, heads, seq_q) */
static void number_each_query(struct call *c, const char *name, const void *data, bool written)
{
    numbers(c, name, data, (struct sizes){ 1, c->p.batch, c->p.heads, c->p.seq_q }, written);
}

static void check_size(struct call *c, const char *name, int64_t size)
{
    fail(c, size < 1 || size > MOST_BYTES, FSA_SIZE, name);
}

/* The call and its problem, which is not read where it is NULL. */
static struct call begin_attention(const struct fsa_problem *p, struct fsa_run *run)
{
    struct call c = begin(run, p ? p->dtype : FSA_FP32);
    fail(&c, !p, FSA_NULL, "p");
    if (c.status)
        return c;
    c.p = (struct attention){ p->batch, p->heads, p->kv_heads, p->seq_q, p->seq_k, p->dim, p->causal != 0, p->scale };
    check_size(&c, "batch", p->batch);
    check_size(&c, "heads", p->heads);
    check_size(&c, "kv_heads", p->kv_heads);
    check_size(&c, "seq_q", p->seq_q);
    check_size(&c, "seq_k", p->seq_k);
    check_size(&c, "dim", p->dim);
    fail(&c, !c.status && p->heads % p->kv_heads != 0, FSA_HEADS, "kv_heads");
    fail(&c, p->dim > FSA_MAX_DIM, FSA_DIM, "dim");
    fail(&c, !isfinite(p->scale), FSA_SCALE, "scale");
    return c;
}

/* ---- decoding: step 35, on a GPU 40, where keys and values lie as it takes them, and step 41 elsewhere */

static enum fsa_status decode(struct call *c, float *lse, const struct fsa_cache *cache)
{
    struct cache d = { .of = *cache };
    struct attention p = c->p;
    void **at = c->at;
    fail(c, p.batch * p.heads > MOST_QUERIES / p.seq_q, FSA_SIZE, "seq_q");
    fail(c, p.seq_k > INT32_MAX, FSA_SIZE, "seq_k");
    if (c->status)
        return c->status;
    plan_cache(c, &d);
    use(c, O, 2, c->dtype);
    check_cache(c, &d);
    size_t bytes = c->status ? 0
                   : d.plain ? grouped_attention_scratch(p, c->dtype)
                             : paged_attention_scratch(p, d.pages, c->dtype);
    if (!start(c, bytes, false))
        return c->status;
    if (d.plain) {
        ON_CPU(c->dtype, grouped_attention, at[O], lse, at[Q], at[K], at[V], p);
    } else {
        fill_cache(c, &d);
        ON_CPU(c->dtype, paged_attention, at[O], lse, at[Q], at[K], at[V], d.pages, p);
    }
    return finish(c);
}

/* ---- attention: step 15, or as decoding for a few queries; its gradient: step 47 */

enum fsa_status fsa_decode(const struct fsa_problem *p, const struct fsa_out *out, float *lse, const struct fsa_in *q,
                           const struct fsa_in *k, const struct fsa_in *v, const struct fsa_cache *cache, struct fsa_run *run)
{
    struct call c = begin_attention(p, run);
    fail(&c, !cache, FSA_NULL, "cache");
    if (c.status)
        return c.status;
    struct sizes keys = of_keys(&c);
    if (cache->table) {
        check_size(&c, "page", cache->page);
        check_size(&c, "pool", cache->pool);
        check_size(&c, "most", cache->most);
        fail(&c, !c.status && cache->most < (c.p.seq_k + cache->page - 1) / cache->page, FSA_SIZE, "most");
        keys.batch = cache->pool, keys.seq = cache->page;
    }
    output(&c, "O", out, of_queries(&c));
    input(&c, "Q", q, of_queries(&c));
    input(&c, "K", k, keys);
    input(&c, "V", v, keys);
    number_each_query(&c, "lse", lse, true);
    numbers(&c, "seqlens", cache->seqlens, (struct sizes){ 1, 1, 1, c.p.batch }, false);
    numbers(&c, "table", cache->table, (struct sizes){ 1, 1, c.p.batch, cache->most }, false);
    check_overlaps(&c, false);
    if (c.status)
        return c.status;
    if (c.gpu)
        return cache->table || cache->seqlens ? paged_attention_on_gpu(&c, lse, cache) : attention_on_gpu(&c, lse);
    return decode(&c, lse, cache);
}

enum fsa_status fsa_attention(const struct fsa_problem *p, const struct fsa_out *out, float *lse, const struct fsa_in *q,
                              const struct fsa_in *k, const struct fsa_in *v, struct fsa_run *run)
{
    static const struct fsa_cache all;
    struct call c = begin_attention(p, run);
    void **at = c.at;
    output(&c, "O", out, of_queries(&c));
    input(&c, "Q", q, of_queries(&c));
    input(&c, "K", k, of_keys(&c));
    input(&c, "V", v, of_keys(&c));
    number_each_query(&c, "lse", lse, true);
    check_overlaps(&c, false);
    if (c.status)
        return c.status;
    if (c.gpu)
        return attention_on_gpu(&c, lse);
    if (c.p.seq_q <= FEW && c.p.batch * c.p.heads <= MOST_QUERIES / c.p.seq_q && c.p.seq_k <= INT32_MAX && c.p.batch <= INT32_MAX)
        return decode(&c, lse, &all);
    use(&c, O, 4, FP32);
    if (!start(&c, 0, false))
        return c.status;
    register_tiled_attention_cpu(at[O], lse, at[Q], at[K], at[V], c.p);
    return finish(&c);
}

enum fsa_status fsa_attention_backward(const struct fsa_problem *p, const struct fsa_out *dQ, const struct fsa_out *dK,
                                       const struct fsa_out *dV, const struct fsa_in *q, const struct fsa_in *k,
                                       const struct fsa_in *v, const struct fsa_in *o, const float *lse, const struct fsa_in *dO,
                                       const float *dlse, struct fsa_run *run)
{
    struct call c = begin_attention(p, run);
    void **t = c.at;
    fail(&c, !lse && !only_asks(&c), FSA_NULL, "lse");
    output(&c, "dQ", dQ, of_queries(&c));
    output(&c, "dK", dK, of_keys(&c));
    output(&c, "dV", dV, of_keys(&c));
    input(&c, "Q", q, of_queries(&c));
    input(&c, "K", k, of_keys(&c));
    input(&c, "V", v, of_keys(&c));
    input(&c, "O", o, of_queries(&c));
    input(&c, "dO", dO, of_queries(&c));
    number_each_query(&c, "lse", lse, false);
    number_each_query(&c, "dlse", dlse, false);
    check_overlaps(&c, false);
    if (c.status)
        return c.status;
    if (c.gpu)
        return attention_backward_on_gpu(&c, lse, dlse);
    use(&c, 0, 8, c.dtype);
    if (!start(&c, c.status ? 0 : joined_backward_scratch(c.p, c.dtype), false))
        return c.status;
    ON_CPU(c.dtype, joined_backward, t[0], t[1], t[2], t[3], t[4], t[5], t[6], lse, t[7], dlse, c.p);
    return finish(&c);
}

/* ---- words */

const char *fsa_words(int32_t status)
{
    static const char *const words[] = {
        [FSA_OK] = "no error",
        [FSA_NULL] = "a pointer that must not be NULL is NULL",
        [FSA_SIZE] = "a size is below 1, a tensor too large, or a row of the table too short for seq_k keys",
        [FSA_HEADS] = "kv_heads does not divide heads",
        [FSA_DIM] = "dim is above 256",
        [FSA_DTYPE] = "there is no such type of element",
        [FSA_SCALE] = "scale is infinite or NaN",
        [FSA_STRIDE] = "a stride is negative, places of a tensor overlap, or pages do not lie as fsa_decode says",
        [FSA_ALIGNMENT] = "a tensor does not begin on a multiple of its element, or a pool of a GPU on one of 16 bytes",
        [FSA_OVERLAP] = "an output lies within another tensor, or the workspace does",
        [FSA_PAGE] = "a table names a page that is not in the pool, or a sequence has not 0 to seq_k keys",
        [FSA_DEVICE] = "there is no such device, or none that the library was compiled for; or a stream on a CPU",
        [FSA_THREADS] = "threads is negative, or above 1024",
        [FSA_FLAG] = "there is no such flag",
        [FSA_WORKSPACE] = "the workspace is NULL, or too small: fsa_run.needed says how many bytes it must have",
        [FSA_UNSUPPORTED] = "on a GPU pages, or lengths that differ, are for 16 bits, heads of 64 or 128, and sm_80 or newer",
        [FSA_LAUNCH] = "CUDA refused a launch, or something that ran before has failed",
    };
    bool known = status >= 0 && status < (int32_t)(sizeof words / sizeof words[0]);
    return known ? words[status] : "there is no such status";
}

const char *fsa_version(void)
{
    return FSA_VERSION;
}

/*
 * The library's door: it checks what a caller hands in, makes of it what a step takes, and calls the step. No file of a step
 * knows of it.
 *
 * A call in three parts. First all tensors are named: input(), output(). Then what is wanted of the workspace: use() and
 * reserve(), and ready() says whether there is enough. Until then nothing is read but tables and lengths, and nothing written.
 * Then fetch_all() copies tensors that lie otherwise than the step takes them into the workspace, the step runs, and put_all()
 * brings results back. The first thing that is wrong stays in the call's status, and all that follows it does nothing.
 */
#include <math.h>
#include <stdbool.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined __APPLE__ || defined __unix__
#include <unistd.h>
#endif

#include "floats.h"
#include "from_softmax.h"
#include "inside.h"
#include "merge.h"
#include "steps.h"

#define FEW 20 /* queries of a head, up to which fsa_attention reads keys as decoding does: step 14 takes as long for up to 48 */
#define MOST_BYTES ((int64_t)1 << 44) /* of a tensor: products of sizes, and of sizes and threads, then fit 64 bits everywhere */
#define MOST_THREADS 1024
#define MOST_QUERIES ((int64_t)1 << 30) /* of fsa_decode, all together: with 2^31 keys the same holds of step 28 */
#define MOST_TENSORS 12

_Static_assert(FSA_FP32 == (int)FP32 && FSA_FP16 == (int)FP16 && FSA_BF16 == (int)BF16, "types.h has the same types");
_Static_assert(sizeof(struct fsa_in) == sizeof(struct fsa_out), "one copy serves both");

/* ---- what steps ask of the machine: machine.h, inside.h */

/* Of the thread that works for a call: what is left of its part of the workspace, and how many threads there are. */
static _Thread_local struct {
    uintptr_t next, end;
    int threads;
    bool failed; /* a step asked for more than there was: never, unless a step changes and this file does not */
} here;

/* Whole lines. */
static size_t lines(size_t bytes)
{
    return (bytes + LINE - 1) / LINE * LINE;
}

void *inside_take(size_t bytes)
{
    size_t whole = lines(bytes);
    if (whole < bytes || whole > here.end - here.next) {
        here.failed = true;
        return NULL;
    }
    here.next += whole;
    return (void *)(here.next - whole);
}

void *scratch(size_t bytes)
{
    return inside_take(bytes);
}

int cpu_threads(void)
{
    return here.threads;
}

/* For step 09 alone: no row fits its cache. Which rows threads share is decided here, in rows_are_shared(). */
int64_t cpu_cache_bytes(int level)
{
    (void)level;
    return 1;
}

/* ---- a call */

struct tensor {
    char *data, *dense;            /* the caller's, and where the step finds it */
    int64_t n[4], stride[3];       /* batch, heads, seq, dim; of the first three, 0 where there is but one */
    int64_t extent;                /* elements from the first to the last */
    enum dtype dtype, as;          /* the caller's, and the step's */
    bool written;
};

struct call {
    enum fsa_status status;
    struct fsa_run *run;
    enum dtype dtype;
    struct tensor tensor[MOST_TENSORS];
    int count;
    uintptr_t base; /* of the workspace, on a multiple of a line */
    size_t used;    /* of it */
    int others;     /* threads that the caller's thread would take: to be restored */
};

static void fail(struct call *c, bool failed, enum fsa_status status)
{
    if (failed && c->status == FSA_OK)
        c->status = status;
}

static int threads_of_openmp(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static void take_threads(int threads)
{
#ifdef _OPENMP
    omp_set_num_threads(threads);
#else
    (void)threads;
#endif
}

static struct call begin(struct fsa_run *run, int32_t dtype)
{
    struct call c = { .run = run, .dtype = (enum dtype)dtype, .others = threads_of_openmp() };
    fail(&c, !run, FSA_NULL);
    fail(&c, dtype < FSA_FP32 || dtype > FSA_BF16, FSA_DTYPE);
    if (!run)
        return c;
    fail(&c, run->device != FSA_CPU || run->stream, FSA_DEVICE);
    fail(&c, run->threads < 0 || run->threads > MOST_THREADS, FSA_THREADS);
    fail(&c, run->flags & ~FSA_ASK, FSA_FLAG);
    run->needed = 0;
    here.threads = run->threads > 0 ? run->threads : c.others < MOST_THREADS ? c.others : MOST_THREADS;
    here.failed = false;
    c.base = ((uintptr_t)run->workspace + LINE - 1) / LINE * LINE;
    return c;
}

/* Strides of a tensor in which no place is another's, for n: (batch, heads, seq, dim): the steps from one place of a dimension to
   the next are as wide as all that lies inside. Sets the extent. False: there are none such, or it is too large. */
static bool lies_well(struct tensor *t)
{
    bool done[3] = { 0 };
    t->extent = t->n[3];
    for (int round = 0; round < 3; round++) {
        int least = -1;
        for (int i = 2; i >= 0; i--)
            if (!done[i] && (least < 0 || t->stride[i] < t->stride[least]))
                least = i;
        done[least] = true;
        if (t->n[least] == 1)
            continue;
        int64_t rest;
        if (t->stride[least] < t->extent || __builtin_mul_overflow(t->stride[least], t->n[least] - 1, &rest) ||
            __builtin_add_overflow(rest, t->extent, &t->extent))
            return false;
    }
    return true;
}

/* Strides of 0, 0 and 0 are those of a dense tensor. False: it is too large. */
static bool fill_strides(struct tensor *t)
{
    bool dense = !t->stride[0] && !t->stride[1] && !t->stride[2];
    int64_t stride = t->n[3];
    for (int i = 2; i >= 0; i--) {
        if (dense || t->n[i] == 1)
            t->stride[i] = t->n[i] == 1 ? 0 : stride;
        if (dense && __builtin_mul_overflow(stride, t->n[i], &stride))
            return false;
    }
    return true;
}

static void check_tensor(struct call *c, struct tensor *t)
{
    int64_t bytes = (int64_t)element_bytes(t->dtype);
    for (int i = 0; i < 4; i++)
        fail(c, t->n[i] < 1 || t->n[i] > MOST_BYTES, FSA_SIZE);
    fail(c, !t->data, FSA_NULL);
    fail(c, (uintptr_t)t->data % (uintptr_t)bytes != 0, FSA_ALIGNMENT);
    if (c->status)
        return;
    for (int i = 0; i < 3; i++)
        fail(c, t->n[i] > 1 && t->stride[i] < 0, FSA_STRIDE);
    fail(c, !fill_strides(t), FSA_SIZE);
    fail(c, !c->status && !lies_well(t), FSA_STRIDE);
    fail(c, t->extent > MOST_BYTES / bytes, FSA_SIZE);
    fail(c, (uintptr_t)t->data + (uintptr_t)t->extent * (uintptr_t)bytes < (uintptr_t)t->data, FSA_SIZE);
}

/* One more tensor of a call: (batch, heads, seq, dim), with these strides. Returns it, whether it is well or not. */
static struct tensor *tensor(struct call *c, const void *data, const int64_t stride[3], const int64_t n[4], bool written)
{
    struct tensor *t = &c->tensor[c->count++];
    *t = (struct tensor){ .data = (char *)data, .dtype = c->dtype, .as = c->dtype, .written = written };
    memcpy(t->stride, stride, sizeof t->stride);
    memcpy(t->n, n, sizeof t->n);
    if (!c->status)
        check_tensor(c, t);
    t->dense = t->data;
    return t;
}

static struct tensor *input(struct call *c, const struct fsa_in *in, int64_t batch, int64_t heads, int64_t seq, int64_t dim)
{
    fail(c, !in, FSA_NULL);
    const struct fsa_in t = in ? *in : (struct fsa_in){ 0 };
    return tensor(c, t.data, (int64_t[]){ t.batch, t.head, t.seq }, (int64_t[]){ batch, heads, seq, dim }, false);
}

static struct tensor *output(struct call *c, const struct fsa_out *out, int64_t batch, int64_t heads, int64_t seq, int64_t dim)
{
    fail(c, !out, FSA_NULL);
    const struct fsa_out t = out ? *out : (struct fsa_out){ 0 };
    return tensor(c, t.data, (int64_t[]){ t.batch, t.head, t.seq }, (int64_t[]){ batch, heads, seq, dim }, true);
}

/* Numbers of 4 bytes, one behind the other: an lse, a table. NULL: there are none, and that is well. */
static void numbers(struct call *c, const void *data, int64_t count, bool written)
{
    enum dtype dtype = c->dtype;
    c->dtype = FP32;
    if (data)
        tensor(c, data, (int64_t[3]){ 0 }, (int64_t[]){ 1, 1, 1, count }, written);
    c->dtype = dtype;
}

static size_t bytes_of(const struct tensor *t)
{
    return (size_t)t->extent * element_bytes(t->dtype);
}

static bool overlap(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    return (uintptr_t)a < (uintptr_t)b + b_bytes && (uintptr_t)b < (uintptr_t)a + a_bytes;
}

static bool same_place(const struct tensor *a, const struct tensor *b)
{
    return a->data == b->data && memcmp(a->stride, b->stride, sizeof a->stride) == 0;
}

/* No input lies where an output does, but for one that may lie exactly there. Outputs may be columns of one tensor: of them
   nothing is known but that they do not begin in one place. */
static bool is_dense(const struct tensor *t)
{
    return t->extent == t->n[0] * t->n[1] * t->n[2] * t->n[3] && (t->n[2] == 1 || t->stride[2] == t->n[3]) &&
           (t->n[1] == 1 || t->stride[1] == t->n[2] * t->n[3]);
}

/* Whether b begins or ends in a, which has no gaps. (Outputs may lie in each other's gaps: dQ, dK and dV, row by row.) */
static bool inside(const struct tensor *a, const struct tensor *b)
{
    return is_dense(a) && (overlap(a->data, bytes_of(a), b->data, 1) ||
                           overlap(a->data, bytes_of(a), b->data + bytes_of(b) - 1, 1));
}

static void check_overlaps(struct call *c, bool in_place)
{
    for (int i = 0; i < c->count; i++)
        for (int j = 0; j < c->count && !c->status; j++) {
            const struct tensor *a = &c->tensor[i], *b = &c->tensor[j];
            if (!a->written || i == j)
                continue;
            if (b->written)
                fail(c, a->data == b->data || inside(a, b), FSA_OVERLAP);
            else
                fail(c, overlap(a->data, bytes_of(a), b->data, bytes_of(b)) && !(in_place && same_place(a, b)), FSA_OVERLAP);
        }
}

/* `bytes` of the workspace, for as long as the call lasts. */
static char *reserve(struct call *c, size_t bytes)
{
    size_t whole = lines(bytes), at = c->used;
    fail(c, whole < bytes || whole > SIZE_MAX / 2 - c->used, FSA_SIZE);
    if (!c->status)
        c->used += whole;
    return (char *)(c->base + at);
}

/* The step takes this tensor dense and as `as`: where it is not both, from the workspace. */
static void use(struct call *c, struct tensor *t, enum dtype as)
{
    if (c->status || (t->dtype == as && is_dense(t)))
        return;
    t->as = as;
    t->dense = reserve(c, (size_t)(t->n[0] * t->n[1] * t->n[2] * t->n[3]) * element_bytes(as));
}

/* Whether the step may run: nothing was wrong, there is workspace enough, and more than the question was asked. */
static bool ready(struct call *c)
{
    if (c->status)
        return false;
    struct fsa_run *run = c->run;
    run->needed = c->used ? c->used + LINE - 1 : 0;
    if (run->flags & FSA_ASK)
        return false;
    fail(c, run->needed && (!run->workspace || run->bytes < run->needed), FSA_WORKSPACE);
    fail(c, run->needed && (uintptr_t)run->workspace + run->needed < run->needed, FSA_WORKSPACE);
    for (int i = 0; i < c->count && run->needed; i++)
        fail(c, overlap(run->workspace, run->needed, c->tensor[i].data, bytes_of(&c->tensor[i])), FSA_OVERLAP);
    if (!c->status)
        take_threads(here.threads);
    return c->status == FSA_OK;
}

/* From here on a step's scratch(), or in a thread its malloc(), gives out these bytes. */
static void enter(char *from, size_t bytes)
{
    here.next = (uintptr_t)from;
    here.end = here.next + lines(bytes);
    here.failed = false;
}

/* Of a call that was ready. */
static enum fsa_status end(struct call *c)
{
    fail(c, here.failed, FSA_WORKSPACE);
    take_threads(c->others);
    return c->status;
}

/* A row of one type as a row of another, or of the same. */
static void convert(void *to, enum dtype to_type, const void *from, enum dtype from_type, int64_t count)
{
    if (to_type == from_type)
        memcpy(to, from, (size_t)count * element_bytes(to_type));
    else if (to_type == FP32)
        floats_of(to, from, count, from_type);
    else
        floats_to(to, from, count, to_type);
}

/* All rows of a tensor into the workspace, or back. */
static void copy(const struct tensor *t, bool back)
{
    if (t->dense == t->data)
        return;
    int64_t dim = t->n[3];
#pragma omp parallel for
    for (int64_t row = 0; row < t->n[0] * t->n[1] * t->n[2]; row++) {
        int64_t head = row / t->n[2], batch = head / t->n[1];
        int64_t at = batch * t->stride[0] + head % t->n[1] * t->stride[1] + row % t->n[2] * t->stride[2];
        char *theirs = element_at(t->data, at, t->dtype), *dense = element_at(t->dense, row * dim, t->as);
        if (back)
            convert(theirs, t->dtype, dense, t->as, dim);
        else
            convert(dense, t->as, theirs, t->dtype, dim);
    }
}

static void fetch_all(const struct call *c)
{
    for (int i = 0; i < c->count; i++)
        if (!c->tensor[i].written)
            copy(&c->tensor[i], false);
}

static void put_all(const struct call *c)
{
    for (int i = 0; i < c->count; i++)
        if (c->tensor[i].written)
            copy(&c->tensor[i], true);
}

/* ---- softmax: step 07, step 09 where threads share rows, and step 29 */

static struct tensor *rows_in(struct call *c, const void *x, int64_t stride, int64_t rows, int64_t cols)
{
    const struct fsa_in in = { .data = x, .seq = stride };
    return input(c, &in, 1, 1, rows, cols);
}

static struct tensor *rows_out(struct call *c, void *y, int64_t stride, int64_t rows, int64_t cols)
{
    const struct fsa_out out = { .data = y, .seq = stride };
    return output(c, &out, 1, 1, rows, cols);
}

static char *row_of(const struct tensor *t, int64_t row)
{
    return element_at(t->data, row * t->stride[2], t->dtype);
}

/* What step 09 asks itself. In a virtual machine it takes long to ask for a cache's size: once will do, by whichever thread. */
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

/* Bytes that a thread of step 07 takes, or step 09: exponentials, scales and states, for rows of `cols` columns. */
static size_t softmax_bytes(int64_t cols, bool shared)
{
    enum { BLOCK = 512, WAIT = 1024 }; /* of steps 07 and 09 */
    int64_t blocks = (cols + BLOCK - 1) / BLOCK, slots = cols < WAIT ? WAIT / cols : 1;
    int64_t floats = slots * ((cols + CHUNK - 1) / CHUNK * CHUNK + blocks);
    return lines((size_t)blocks * sizeof(struct softmax_state) + (size_t)(shared ? blocks : floats) * sizeof(float)) +
           3 * LINE; /* each on a line of its own */
}

static void narrow(void *y, const void *x, int64_t rows, int64_t cols, enum dtype dtype)
{
    switch (dtype) {
    case FP16: narrow_softmax_fp16_cpu(y, x, rows, cols); break;
    case BF16: narrow_softmax_bf16_cpu(y, x, rows, cols); break;
    default:   narrow_softmax_cpu(y, x, rows, cols); break;
    }
}

static void split(void *y, const void *x, int64_t rows, int64_t cols, enum dtype dtype)
{
    switch (dtype) {
    case FP16: split_softmax_fp16_cpu(y, x, rows, cols); break;
    case BF16: split_softmax_bf16_cpu(y, x, rows, cols); break;
    default:   split_softmax_cpu(y, x, rows, cols); break;
    }
}

typedef void softmax_fn(void *y, const void *x, int64_t rows, int64_t cols, enum dtype dtype);

/* Rows first to last - 1, at once if they lie side by side, and otherwise one by one. memory: what the step takes each time. */
static void softmax_rows(softmax_fn *step, const struct tensor *y, const struct tensor *x, int64_t first, int64_t last,
                         char *memory, size_t bytes)
{
    int64_t many = is_dense(y) && is_dense(x) ? last - first : 1;
    for (int64_t row = first; row < last && !here.failed; row += many) {
        enter(memory, bytes);
        step(row_of(y, row), row_of(x, row), many, x->n[3], x->dtype);
    }
}

enum fsa_status fsa_softmax(void *y, int64_t y_stride, const void *x, int64_t x_stride, int64_t rows, int64_t cols, int32_t dtype,
                            struct fsa_run *run)
{
    struct call c = begin(run, dtype);
    const struct tensor *out = rows_out(&c, y, y_stride, rows, cols), *in = rows_in(&c, x, x_stride, rows, cols);
    check_overlaps(&c, true);
    bool shared = !c.status && rows_are_shared(rows, cols);
    size_t each = c.status ? 0 : softmax_bytes(cols, shared);
    int threads = shared ? 1 : here.threads;
    char *memory = reserve(&c, each * (size_t)threads);
    if (!ready(&c))
        return c.status;
    if (shared) {
        softmax_rows(split, out, in, 0, rows, memory, each);
        return end(&c);
    }
    bool failed = false;
#pragma omp parallel for reduction(|| : failed)
    for (int t = 0; t < threads; t++) { /* as step 07 has it; but each thread has its memory, and calls the step for itself */
        take_threads(1);
        here.threads = 1;
        here.failed = false;
        softmax_rows(narrow, out, in, rows * t / threads, rows * (t + 1) / threads, memory + each * (size_t)t, each);
        failed = failed || here.failed;
    }
    here.failed = failed;
    return end(&c);
}

static void gradient(void *dx, const void *y, const void *dy, int64_t rows, int64_t cols, enum dtype dtype)
{
    switch (dtype) {
    case FP16: softmax_backward_fp16_cpu(dx, y, dy, rows, cols); break;
    case BF16: softmax_backward_bf16_cpu(dx, y, dy, rows, cols); break;
    default:   softmax_backward_cpu(dx, y, dy, rows, cols); break;
    }
}

enum fsa_status fsa_softmax_backward(void *dx, int64_t dx_stride, const void *y, int64_t y_stride, const void *dy,
                                     int64_t dy_stride, int64_t rows, int64_t cols, int32_t dtype, struct fsa_run *run)
{
    struct call c = begin(run, dtype);
    const struct tensor *to = rows_out(&c, dx, dx_stride, rows, cols), *of_y = rows_in(&c, y, y_stride, rows, cols),
                        *of_dy = rows_in(&c, dy, dy_stride, rows, cols);
    check_overlaps(&c, true);
    if (!ready(&c))
        return c.status;
    if (is_dense(to) && is_dense(of_y) && is_dense(of_dy)) {
        gradient(dx, y, dy, rows, cols, c.dtype);
        return end(&c);
    }
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        take_threads(1);
        here.threads = 1;
        gradient(row_of(to, row), row_of(of_y, row), row_of(of_dy, row), 1, cols, c.dtype);
    }
    return end(&c);
}

/* ---- decoding: step 27 where keys and values lie as it takes them, and step 28 elsewhere */

/* How step 28 may see a tensor of keys as pages, without a copy: the pages of each of its batches begin so many apart. */
struct layout {
    int64_t size;  /* keys of a page: all of a batch, or 1, which is (batch, seq, heads, dim) */
    int64_t batch; /* pages from a batch to the next */
    int64_t key;   /* and, of pages of 1, from a key to the next */
};

static bool is_multiple(const struct tensor *t, int i, int64_t of)
{
    return t->n[i] == 1 || t->stride[i] % of == 0;
}

/* exact: pages of a table have as many keys as it says; otherwise there may be more room behind a batch's keys. */
static bool find_layout(struct layout *l, const struct tensor *t, bool exact)
{
    int64_t seq = t->n[2], dim = t->n[3], row = t->n[1] * dim, size = t->n[1] > 1 ? t->stride[1] / dim : seq;
    if (is_multiple(t, 1, dim) && size >= seq && (!exact || size == seq) && (seq == 1 || t->stride[2] == dim) &&
        is_multiple(t, 0, row * size))
        *l = (struct layout){ size, t->stride[0] / (row * size), 0 };
    else if ((t->n[1] == 1 || t->stride[1] == dim) && is_multiple(t, 2, row) && is_multiple(t, 0, row))
        *l = (struct layout){ 1, t->stride[0] / row, t->stride[2] / row };
    else
        return false;
    int64_t last;
    return !__builtin_mul_overflow(l->batch, t->n[0] - 1, &last) && last + l->key * (seq - 1) <= INT32_MAX;
}

/* What decoding has, and attention of a few queries. */
struct decoding {
    bool plain; /* step 27: dense, and of one length */
    struct tensor *O, *Q, *K, *V;
    float *lse;
    struct attention p;
    struct fsa_cache cache;
    struct layout layout;
    struct pages pages;
    int32_t *table, *seqlens; /* in the workspace, where they are made */
};

static int64_t length(const struct decoding *d, int64_t sequence)
{
    return d->cache.seqlens ? d->cache.seqlens[sequence] : d->p.seq_k;
}

/* Tables and lengths are read before anything is written: a page that is not there must not be read. */
static void check_cache(struct call *c, struct decoding *d)
{
    const struct fsa_cache *g = &d->cache;
    d->pages.keys = g->seqlens ? 0 : d->p.batch * d->p.seq_k;
    for (int64_t b = 0; b < d->p.batch && !c->status && (g->seqlens || g->table); b++) {
        fail(c, length(d, b) < 0 || length(d, b) > d->p.seq_k, FSA_PAGE);
        d->pages.keys += g->seqlens ? length(d, b) : 0;
        for (int64_t i = 0; g->table && !c->status && i * g->page < length(d, b); i++)
            fail(c, g->table[b * g->most + i] < 0 || g->table[b * g->most + i] >= g->pool, FSA_PAGE);
    }
}

/* Where K and V cannot be pages as they lie, they are copied: dense, each sequence is one page. */
static void plan_keys(struct call *c, struct decoding *d)
{
    bool paged = d->cache.table != NULL, one_length = !paged && !d->cache.seqlens;
    struct layout of_V;
    d->plain = one_length && is_dense(d->K) && is_dense(d->V);
    if (d->plain || (find_layout(&d->layout, d->K, paged) && find_layout(&of_V, d->V, paged) && d->layout.size == of_V.size &&
                     d->layout.batch == of_V.batch && d->layout.key == of_V.key))
        return;
    fail(c, paged, FSA_STRIDE);
    fail(c, d->p.batch > INT32_MAX, FSA_SIZE);
    d->plain = one_length;
    d->layout = (struct layout){ d->p.seq_k, 1, 0 };
    use(c, d->K, c->dtype);
    use(c, d->V, c->dtype);
}

/* What step 28 is to be told of pages. */
static void plan_pages(struct call *c, struct decoding *d)
{
    const struct attention *p = &d->p;
    bool paged = d->cache.table != NULL;
    struct pages *g = &d->pages;
    g->size = d->layout.size;
    g->most = (p->seq_k + g->size - 1) / g->size;
    g->table = d->cache.table;
    g->seqlens = d->cache.seqlens;
    if (!paged || d->layout.key || d->layout.batch != 1)
        g->table = d->table = (int32_t *)reserve(c, (size_t)(p->batch * g->most) * sizeof(int32_t));
    else
        g->most = d->cache.most;
    if (!g->seqlens)
        g->seqlens = d->seqlens = (int32_t *)reserve(c, (size_t)p->batch * sizeof(int32_t));
}

/* The table that step 28 reads, of pages as the layout has them. */
static void fill_table(const struct decoding *d)
{
    const struct fsa_cache *g = &d->cache;
    int64_t most = d->pages.most, batch = d->layout.batch, key = d->layout.key;
    for (int64_t b = 0; b < d->p.batch; b++) {
        if (d->seqlens)
            d->seqlens[b] = (int32_t)d->p.seq_k;
        for (int64_t i = 0; d->table && i * d->pages.size < length(d, b); i++) {
            int64_t of = !g->table ? b : g->table[b * g->most + i * d->pages.size / g->page];
            int64_t in = !g->table ? i : i * d->pages.size % g->page;
            d->table[b * most + i] = (int32_t)(of * batch + in * key);
        }
    }
}

static void by_step_27(const struct decoding *d, enum dtype dtype)
{
    void *O = d->O->dense;
    const void *Q = d->Q->dense, *K = d->K->dense, *V = d->V->dense;
    switch (dtype) {
    case FP16: grouped_attention_fp16_cpu(O, d->lse, Q, K, V, d->p); break;
    case BF16: grouped_attention_bf16_cpu(O, d->lse, Q, K, V, d->p); break;
    default:   grouped_attention_cpu(O, d->lse, Q, K, V, d->p); break;
    }
}

static void by_step_28(const struct decoding *d, enum dtype dtype)
{
    void *O = d->O->dense;
    const void *Q = d->Q->dense, *K = d->K->dense, *V = d->V->dense;
    switch (dtype) {
    case FP16: paged_attention_fp16_cpu(O, d->lse, Q, K, V, d->pages, d->p); break;
    case BF16: paged_attention_bf16_cpu(O, d->lse, Q, K, V, d->pages, d->p); break;
    default:   paged_attention_cpu(O, d->lse, Q, K, V, d->pages, d->p); break;
    }
}

static enum fsa_status decode(struct call *c, struct decoding *d)
{
    fail(c, !c->status && (d->p.batch * d->p.heads > MOST_QUERIES / d->p.seq_q || d->p.seq_k > INT32_MAX), FSA_SIZE);
    if (c->status)
        return c->status;
    plan_keys(c, d);
    use(c, d->Q, c->dtype);
    use(c, d->O, c->dtype);
    if (!c->status && !d->plain) {
        plan_pages(c, d);
        check_cache(c, d);
    }
    size_t bytes = c->status  ? 0
                   : d->plain ? grouped_attention_scratch(d->p, c->dtype)
                              : paged_attention_scratch(d->p, d->pages, c->dtype);
    char *memory = reserve(c, bytes);
    if (!ready(c))
        return c->status;
    fetch_all(c);
    enter(memory, bytes);
    if (d->plain)
        by_step_27(d, c->dtype);
    else {
        fill_table(d);
        by_step_28(d, c->dtype);
    }
    put_all(c);
    return end(c);
}

/* ---- attention: step 14, or as decoding for a few queries; backward: step 31 */

/* The call and its problem, which is not read where it is NULL. */
static struct call begin_attention(const struct fsa_problem *p, struct attention *a, struct fsa_run *run)
{
    struct call c = begin(run, p ? p->dtype : FSA_FP32);
    fail(&c, !p, FSA_NULL);
    if (c.status)
        return c;
    *a = (struct attention){ p->batch, p->heads, p->kv_heads, p->seq_q, p->seq_k, p->dim, p->causal != 0, p->scale };
    const int64_t sizes[] = { p->batch, p->heads, p->kv_heads, p->seq_q, p->seq_k, p->dim };
    for (int i = 0; i < 6; i++)
        fail(&c, sizes[i] < 1 || sizes[i] > MOST_BYTES, FSA_SIZE);
    fail(&c, !c.status && p->heads % p->kv_heads != 0, FSA_HEADS);
    fail(&c, p->dim > FSA_MAX_DIM, FSA_DIM);
    fail(&c, !isfinite(p->scale), FSA_SCALE);
    return c;
}

enum fsa_status fsa_decode(const struct fsa_problem *p, const struct fsa_out *O, float *lse, const struct fsa_in *Q,
                           const struct fsa_in *K, const struct fsa_in *V, const struct fsa_cache *cache, struct fsa_run *run)
{
    struct decoding d = { .lse = lse };
    struct call c = begin_attention(p, &d.p, run);
    fail(&c, !cache, FSA_NULL);
    if (c.status)
        return c.status;
    d.cache = *cache;
    struct attention a = d.p;
    bool paged = cache->table != NULL;
    fail(&c, paged && (cache->page < 1 || cache->pool < 1 || cache->most < 1 || cache->page > MOST_BYTES), FSA_SIZE);
    fail(&c, !c.status && paged && cache->most < (a.seq_k + cache->page - 1) / cache->page, FSA_SIZE);
    d.O = output(&c, O, a.batch, a.heads, a.seq_q, a.dim);
    d.Q = input(&c, Q, a.batch, a.heads, a.seq_q, a.dim);
    d.K = input(&c, K, paged ? cache->pool : a.batch, a.kv_heads, paged ? cache->page : a.seq_k, a.dim);
    d.V = input(&c, V, paged ? cache->pool : a.batch, a.kv_heads, paged ? cache->page : a.seq_k, a.dim);
    numbers(&c, lse, c.status ? 1 : a.batch * a.heads * a.seq_q, true);
    numbers(&c, cache->seqlens, a.batch, false);
    fail(&c, !c.status && paged && a.batch > MOST_BYTES / 4 / cache->most, FSA_SIZE);
    numbers(&c, cache->table, c.status || !paged ? 1 : a.batch * cache->most, false);
    check_overlaps(&c, false);
    return decode(&c, &d);
}

enum fsa_status fsa_attention(const struct fsa_problem *p, const struct fsa_out *O, float *lse, const struct fsa_in *Q,
                              const struct fsa_in *K, const struct fsa_in *V, struct fsa_run *run)
{
    struct decoding d = { .lse = lse };
    struct call c = begin_attention(p, &d.p, run);
    struct attention a = d.p;
    d.O = output(&c, O, a.batch, a.heads, a.seq_q, a.dim);
    d.Q = input(&c, Q, a.batch, a.heads, a.seq_q, a.dim);
    d.K = input(&c, K, a.batch, a.kv_heads, a.seq_k, a.dim);
    d.V = input(&c, V, a.batch, a.kv_heads, a.seq_k, a.dim);
    numbers(&c, lse, c.status ? 1 : a.batch * a.heads * a.seq_q, true);
    check_overlaps(&c, false);
    if (c.status)
        return c.status;
    if (a.seq_q <= FEW && a.batch * a.heads <= MOST_QUERIES / a.seq_q && a.seq_k <= INT32_MAX && a.batch <= INT32_MAX)
        return decode(&c, &d);
    struct tensor *all[] = { d.O, d.Q, d.K, d.V };
    for (int i = 0; i < 4; i++)
        use(&c, all[i], FP32);
    if (!ready(&c))
        return c.status;
    fetch_all(&c);
    register_tiled_attention_cpu((float *)d.O->dense, lse, (float *)d.Q->dense, (float *)d.K->dense, (float *)d.V->dense, a);
    put_all(&c);
    return end(&c);
}

enum fsa_status fsa_attention_backward(const struct fsa_problem *p, const struct fsa_out *dQ, const struct fsa_out *dK,
                                       const struct fsa_out *dV, const struct fsa_in *Q, const struct fsa_in *K,
                                       const struct fsa_in *V, const struct fsa_in *O, const float *lse, const struct fsa_in *dO,
                                       const float *dlse, struct fsa_run *run)
{
    struct attention a = { 0 };
    struct call c = begin_attention(p, &a, run);
    fail(&c, !lse, FSA_NULL);
    struct tensor *t[] = {
        output(&c, dQ, a.batch, a.heads, a.seq_q, a.dim),    output(&c, dK, a.batch, a.kv_heads, a.seq_k, a.dim),
        output(&c, dV, a.batch, a.kv_heads, a.seq_k, a.dim), input(&c, Q, a.batch, a.heads, a.seq_q, a.dim),
        input(&c, K, a.batch, a.kv_heads, a.seq_k, a.dim),   input(&c, V, a.batch, a.kv_heads, a.seq_k, a.dim),
        input(&c, O, a.batch, a.heads, a.seq_q, a.dim),      input(&c, dO, a.batch, a.heads, a.seq_q, a.dim),
    };
    numbers(&c, lse, c.status ? 1 : a.batch * a.heads * a.seq_q, false);
    numbers(&c, dlse, c.status ? 1 : a.batch * a.heads * a.seq_q, false);
    check_overlaps(&c, false);
    for (int i = 0; i < 8; i++)
        use(&c, t[i], c.dtype);
    size_t bytes = c.status ? 0 : recomputed_backward_scratch(a, c.dtype);
    char *memory = reserve(&c, bytes);
    if (!ready(&c))
        return c.status;
    fetch_all(&c);
    enter(memory, bytes);
    void *d[8];
    for (int i = 0; i < 8; i++)
        d[i] = t[i]->dense;
    switch (c.dtype) {
    case FP16: recomputed_backward_fp16_cpu(d[0], d[1], d[2], d[3], d[4], d[5], d[6], lse, d[7], dlse, a); break;
    case BF16: recomputed_backward_bf16_cpu(d[0], d[1], d[2], d[3], d[4], d[5], d[6], lse, d[7], dlse, a); break;
    default:   recomputed_backward_cpu(d[0], d[1], d[2], d[3], d[4], d[5], d[6], lse, d[7], dlse, a); break;
    }
    put_all(&c);
    return end(&c);
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
        [FSA_ALIGNMENT] = "a tensor does not begin on a multiple of its element",
        [FSA_OVERLAP] = "an output lies within another tensor, or the workspace does",
        [FSA_PAGE] = "a table names a page that is not in the pool, or a sequence has not 0 to seq_k keys",
        [FSA_DEVICE] = "this build has no such device, or no stream",
        [FSA_THREADS] = "threads is negative, or above 1024",
        [FSA_FLAG] = "there is no such flag",
        [FSA_WORKSPACE] = "the workspace is NULL, or too small: fsa_run.needed says how many bytes it must have",
    };
    bool known = status >= 0 && status < (int32_t)(sizeof words / sizeof words[0]);
    return known ? words[status] : "there is no such status";
}

const char *fsa_version(void)
{
    return FSA_VERSION;
}

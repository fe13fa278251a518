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
#include "gpu.h"
#include "inside.h"
#include "merge.h"
#include "steps.h"

#define FEW_ON_GPU 16 /* the same on a GPU */
#define FEW 20 /* queries of a head, up to which fsa_attention reads keys as decoding does: step 14 takes as long for up to 48 */
#define MOST_BYTES ((int64_t)1 << 44) /* of a tensor: products of sizes, and of sizes and threads, then fit 64 bits everywhere */
#define MOST_THREADS 1024
#define MOST_QUERIES ((int64_t)1 << 30) /* of fsa_decode, all together: with 2^31 keys the same holds of step 28 */
#define MOST_ROWS INT32_MAX /* of a softmax on a GPU */
#define MOST_TENSORS 12
#define PACK 16   /* bytes that a GPU's steps load at once: tensors of attention begin on multiples */
#define PLACE 128 /* what is in the workspace begins on a multiple: a line of a GPU, and two of a CPU */

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
    int64_t dim;                   /* the step's: a GPU's may want more, which are zeros */
    int64_t extent;                /* elements from the first to the last */
    enum dtype dtype, as;          /* the caller's, and the step's */
    bool written;
};

struct call {
    enum fsa_status status;
    struct fsa_run *run;
    const struct gpu *gpu; /* NULL: on a CPU */
    enum dtype dtype;
    struct tensor tensor[MOST_TENSORS];
    int count;
    uintptr_t base; /* of the workspace, on a multiple of PLACE */
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
    if (run->device == FSA_GPU)
        c.gpu = gpu_here();
    fail(&c, !c.gpu && (run->device != FSA_CPU || run->stream), FSA_DEVICE);
    fail(&c, run->threads < 0 || run->threads > MOST_THREADS, FSA_THREADS);
    fail(&c, run->flags & ~(FSA_ASK | FSA_KEPT), FSA_FLAG);
    run->needed = 0;
    here.threads = run->threads > 0 ? run->threads : c.others < MOST_THREADS ? c.others : MOST_THREADS;
    here.failed = false;
    c.base = ((uintptr_t)run->workspace + PLACE - 1) / PLACE * PLACE;
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

/* Then data may be NULL. */
static bool only_asks(const struct call *c)
{
    return c->run && c->run->flags & FSA_ASK;
}

static void check_tensor(struct call *c, struct tensor *t)
{
    int64_t bytes = (int64_t)element_bytes(t->dtype);
    for (int i = 0; i < 4; i++)
        fail(c, t->n[i] < 1 || t->n[i] > MOST_BYTES, FSA_SIZE);
    fail(c, !t->data && !only_asks(c), FSA_NULL);
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
    t->dim = n[3];
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
            if (!a->written || i == j || !a->data || !b->data)
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
    size_t whole = (bytes + PLACE - 1) / PLACE * PLACE, at = c->used;
    fail(c, whole < bytes || whole > SIZE_MAX / 2 - c->used, FSA_SIZE);
    if (!c->status)
        c->used += whole;
    return (char *)(c->base + at);
}

static void use_copy(struct call *c, struct tensor *t, enum dtype as, int64_t dim)
{
    t->as = as;
    t->dim = dim;
    t->dense = reserve(c, (size_t)(t->n[0] * t->n[1] * t->n[2] * dim) * element_bytes(as));
}

/* The step takes this tensor dense and as `as`: where it is not both, from the workspace. */
static void use(struct call *c, struct tensor *t, enum dtype as)
{
    if (!c->status && !(t->dtype == as && is_dense(t)))
        use_copy(c, t, as, t->n[3]);
}

/* Whether the step may run: nothing was wrong, there is workspace enough, and more than the question was asked. */
static bool ready(struct call *c)
{
    if (c->status)
        return false;
    struct fsa_run *run = c->run;
    run->needed = c->used ? c->used + PLACE - 1 : 0;
    if (run->flags & FSA_ASK)
        return false;
    fail(c, run->needed && (!run->workspace || run->bytes < run->needed), FSA_WORKSPACE);
    fail(c, run->needed && (uintptr_t)run->workspace + run->needed < run->needed, FSA_WORKSPACE);
    for (int i = 0; i < c->count && run->needed; i++)
        fail(c, overlap(run->workspace, run->needed, c->tensor[i].data, bytes_of(&c->tensor[i])), FSA_OVERLAP);
    if (!c->status && !c->gpu)
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
    if (c->gpu) {
        fail(c, !gpu_is_well(), FSA_LAUNCH);
        return c->status;
    }
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

/* On a GPU: of one type, and all at once. */
static void copy_on_gpu(const struct call *c, bool back)
{
    struct copy copies[MOST_TENSORS];
    int count = 0;
    enum dtype as = c->dtype;
    for (int i = 0; i < c->count; i++) {
        const struct tensor *t = &c->tensor[i];
        if (t->written != back || t->dense == t->data)
            continue;
        int64_t dense[] = { t->n[1] * t->n[2] * t->dim, t->n[2] * t->dim, t->dim };
        struct copy *to = &copies[count++];
        *to = (struct copy){ back ? t->data : t->dense, back ? t->dense : t->data, t->n[0], t->n[1], t->n[2], t->n[3],
                             back ? t->n[3] : t->dim, { 0 }, { 0 } };
        memcpy(to->to_stride, back ? t->stride : dense, sizeof dense);
        memcpy(to->from_stride, back ? dense : t->stride, sizeof dense);
        as = t->as;
    }
    gpu_copy(copies, count, back ? c->dtype : as, back ? as : c->dtype, c->run->stream);
}

static void fetch_all(const struct call *c)
{
    if (c->gpu)
        return copy_on_gpu(c, false);
    for (int i = 0; i < c->count; i++)
        if (!c->tensor[i].written)
            copy(&c->tensor[i], false);
}

static void put_all(const struct call *c)
{
    if (c->gpu)
        return copy_on_gpu(c, true);
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

/* ---- the same on a GPU */

static struct {
    softmax_gpu_fn *fp32;
    softmax_fp16_gpu_fn *fp16;
    softmax_bf16_gpu_fn *bf16;
    workspace_fn *workspace;
    softmax_backward_gpu_fn *back;
} const of_gpu = { GPU(split_softmax_gpu), GPU(split_softmax_fp16_gpu), GPU(split_softmax_bf16_gpu), GPU(split_softmax_workspace),
                   GPU(softmax_backward_gpu) };

/* The workspace of a step that counts in it. */
static void clear(const struct call *c, void *memory, size_t bytes)
{
    if (bytes && !(c->run->flags & FSA_KEPT))
        gpu_zero(memory, bytes, c->run->stream);
}

/* All tensors of a call that are rows: the step takes them dense, as `as`, and alike, their addresses equal modulo PACK. */
static void use_rows_on_gpu(struct call *c, enum dtype as)
{
    bool fine = as == c->dtype;
    for (int i = 0; i < c->count && !c->status; i++) {
        const struct tensor *t = &c->tensor[i];
        fine = fine && is_dense(t) && ((uintptr_t)t->data - (uintptr_t)c->tensor[0].data) % PACK == 0;
        fail(c, t->n[2] > MOST_ROWS, FSA_SIZE);
    }
    for (int i = 0; i < c->count && !c->status && !fine; i++)
        use_copy(c, &c->tensor[i], as, c->tensor[i].n[3]);
}

static enum fsa_status softmax_on_gpu(struct call *c, const struct tensor *y, const struct tensor *x)
{
    int64_t rows = x->n[2], cols = x->n[3];
    use_rows_on_gpu(c, c->dtype);
    size_t bytes = c->status ? 0 : of_gpu.workspace(rows, cols, c->dtype);
    void *memory = reserve(c, bytes), *to = y->dense, *stream = c->run->stream;
    const void *from = x->dense;
    if (!ready(c))
        return c->status;
    fetch_all(c);
    clear(c, memory, bytes);
    switch (c->dtype) {
    case FP16: of_gpu.fp16(to, from, rows, cols, memory, stream); break;
    case BF16: of_gpu.bf16(to, from, rows, cols, memory, stream); break;
    default:   of_gpu.fp32(to, from, rows, cols, memory, stream); break;
    }
    put_all(c);
    return end(c);
}

/* Step 29 is fp32 there. */
static enum fsa_status gradient_on_gpu(struct call *c, const struct tensor *dx, const struct tensor *y, const struct tensor *dy)
{
    use_rows_on_gpu(c, FP32);
    if (!ready(c))
        return c->status;
    fetch_all(c);
    of_gpu.back((float *)dx->dense, (float *)y->dense, (float *)dy->dense, y->n[2], y->n[3], NULL, c->run->stream);
    put_all(c);
    return end(c);
}

enum fsa_status fsa_softmax(void *y, int64_t y_stride, const void *x, int64_t x_stride, int64_t rows, int64_t cols, int32_t dtype,
                            struct fsa_run *run)
{
    struct call c = begin(run, dtype);
    const struct tensor *out = rows_out(&c, y, y_stride, rows, cols), *in = rows_in(&c, x, x_stride, rows, cols);
    check_overlaps(&c, true);
    if (!c.status && c.gpu)
        return softmax_on_gpu(&c, out, in);
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
    if (!c.status && c.gpu)
        return gradient_on_gpu(&c, to, of_y, of_dy);
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

/* ---- attention on a GPU: the steps that there are, the best first */

/* What a step needs and takes. A line more here is a step more. */
struct gpu_step {
    int capability;  /* code for such a GPU, or a newer one */
    bool hopper;     /* code of sm_90a */
    bool tiles;      /* heads of 64 or 128: others are filled up with zeros */
    bool strided;    /* it is compiled with strided.cuh */
    bool counts;     /* its workspace begins as zeros, and it leaves them so */
    attention_gpu_fn *fp32;
    attention_fp16_gpu_fn *fp16;
    attention_bf16_gpu_fn *bf16;
    attention_backward_gpu_fn *back_fp32; /* or it goes back */
    attention_backward_fp16_gpu_fn *back_fp16;
    attention_backward_bf16_gpu_fn *back_bf16;
    attention_workspace_fn *workspace; /* NULL: it needs none */
};

/* The last of each list takes everything, in fp32 at least. library.mk says for which GPUs there are steps. */
static const struct gpu_step forward_steps[] = {
#ifdef FOR_HOPPER
    { .hopper = true, .tiles = true, .strided = true, .counts = true, .fp16 = optimistic_attention_fp16_gpu,
      .bf16 = optimistic_attention_bf16_gpu, .workspace = optimistic_attention_workspace },
#endif
#ifdef FOR_OTHERS
    { .capability = 80, .tiles = true, .fp16 = lean_attention_fp16_gpu, .bf16 = lean_attention_bf16_gpu },
#endif
    { .fp32 = GPU(register_tiled_attention_gpu) },
};
static const struct gpu_step decoding_steps[] = {
    { .fp32 = GPU(grouped_attention_gpu), .fp16 = GPU(grouped_attention_fp16_gpu), .bf16 = GPU(grouped_attention_bf16_gpu),
      .workspace = GPU(grouped_attention_workspace), .counts = true },
};
static const struct gpu_step backward_steps[] = {
    { .capability = 80, .tiles = true, .back_fp16 = GPU(tensor_core_backward_fp16_gpu),
      .back_bf16 = GPU(tensor_core_backward_bf16_gpu), .workspace = GPU(tensor_core_backward_workspace) },
    { .back_fp32 = GPU(recomputed_backward_gpu), .workspace = GPU(recomputed_backward_workspace) },
};

static bool has_type(const struct gpu_step *s, enum dtype dtype)
{
    return dtype == FP16 ? s->fp16 || s->back_fp16 : dtype == BF16 ? s->bf16 || s->back_bf16 : s->fp32 || s->back_fp32;
}

static const struct gpu_step *choose(const struct gpu_step *s, const struct call *c, int64_t dim)
{
    while (s->capability > c->gpu->capability || (s->hopper && !c->gpu->hopper) || (s->tiles && dim > 128) ||
           !(has_type(s, c->dtype) || has_type(s, FP32)))
        s++;
    return s;
}

/* Whether the copy engine can have a map of it, and strided.cuh take its heads apart. */
static bool has_map(const struct tensor *t)
{
    for (int i = 0; i < 3; i++)
        if (t->stride[i] % 8 != 0 || t->stride[i] >= (int64_t)1 << 39)
            return false;
    return t->n[0] * t->n[1] <= ((int64_t)UINT32_MAX) / t->n[1];
}

/* How the step sees the problem: tensors that it cannot have as they are come from the workspace. */
static struct attention use_on_gpu(struct call *c, const struct gpu_step *s, struct tensor **all, int count, struct attention p)
{
    enum dtype as = has_type(s, c->dtype) ? c->dtype : FP32;
    p.dim = !s->tiles ? p.dim : p.dim <= 64 ? 64 : 128;
    fail(c, p.batch * p.heads > MOST_QUERIES / p.seq_q || p.batch * p.kv_heads > MOST_QUERIES / p.seq_k, FSA_SIZE);
    for (int i = 0; i < count && !c->status; i++) {
        const struct tensor *t = all[i];
        if (!(t->dtype == as && t->n[3] == p.dim && (uintptr_t)t->data % PACK == 0 &&
              (is_dense(t) || (s->strided && has_map(t)))))
            use_copy(c, all[i], as, p.dim);
    }
    return p;
}

/* Sizes of 1 have a stride of 0, of which no map can be made: any other will do. Where all heads are equally far apart they are
   those of one batch. */
static void *describe(struct strided *s, const struct tensor *t)
{
    bool copied = t->dense != t->data;
    int64_t head = copied ? t->n[2] * t->dim : t->stride[1], batch = copied ? t->n[1] * head : t->stride[0];
    *s = (struct strided){ t->dense, t->n[0], t->n[1], batch, head, copied ? t->dim : t->stride[2] };
    if (t->n[1] == 1 || t->n[0] == 1 || batch == t->n[1] * head) {
        s->batches = 1, s->heads = t->n[0] * t->n[1];
        s->head = t->n[1] == 1 ? batch : head;
    }
    s->batch = s->batch ? s->batch : t->dim;
    s->head = s->head ? s->head : t->dim;
    s->row = s->row ? s->row : t->dim;
    return s;
}

static enum fsa_status attention_on_gpu(struct call *c, struct tensor *O, float *lse, struct tensor *Q, struct tensor *K,
                                        struct tensor *V, struct attention a)
{
    struct tensor *all[] = { O, Q, K, V };
    const struct gpu_step *s = choose(a.seq_q <= FEW_ON_GPU ? decoding_steps : forward_steps, c, a.dim);
    const struct attention p = use_on_gpu(c, s, all, 4, a);
    size_t bytes = c->status || !s->workspace ? 0 : s->workspace(p, O->as);
    void *memory = reserve(c, bytes), *stream = c->run->stream, *t[4];
    if (!ready(c))
        return c->status;
    fetch_all(c);
    clear(c, memory, s->counts ? bytes : 0);
    struct strided of[4];
    for (int i = 0; i < 4; i++)
        t[i] = s->strided ? describe(&of[i], all[i]) : all[i]->dense;
    switch (O->as) {
    case FP16: s->fp16(t[0], lse, t[1], t[2], t[3], p, memory, stream); break;
    case BF16: s->bf16(t[0], lse, t[1], t[2], t[3], p, memory, stream); break;
    default:   s->fp32(t[0], lse, t[1], t[2], t[3], p, memory, stream); break;
    }
    put_all(c);
    return end(c);
}

/* t: dQ, dK, dV, Q, K, V, O, dO. */
static enum fsa_status backward_on_gpu(struct call *c, struct tensor **t, const float *lse, const float *dlse, struct attention a)
{
    const struct gpu_step *s = choose(backward_steps, c, a.dim);
    const struct attention p = use_on_gpu(c, s, t, 8, a);
    size_t bytes = c->status || !s->workspace ? 0 : s->workspace(p, t[0]->as);
    void *memory = reserve(c, bytes), *stream = c->run->stream, *d[8];
    if (!ready(c))
        return c->status;
    fetch_all(c);
    clear(c, memory, s->counts ? bytes : 0);
    for (int i = 0; i < 8; i++)
        d[i] = t[i]->dense;
    switch (t[0]->as) {
    case FP16: s->back_fp16(d[0], d[1], d[2], d[3], d[4], d[5], d[6], lse, d[7], dlse, p, memory, stream); break;
    case BF16: s->back_bf16(d[0], d[1], d[2], d[3], d[4], d[5], d[6], lse, d[7], dlse, p, memory, stream); break;
    default:   s->back_fp32(d[0], d[1], d[2], d[3], d[4], d[5], d[6], lse, d[7], dlse, p, memory, stream); break;
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
    fail(&c, c.gpu && (paged || cache->seqlens), FSA_UNSUPPORTED);
    return c.gpu ? attention_on_gpu(&c, d.O, lse, d.Q, d.K, d.V, d.p) : decode(&c, &d);
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
    if (c.gpu)
        return attention_on_gpu(&c, d.O, lse, d.Q, d.K, d.V, a);
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
    fail(&c, !lse && !only_asks(&c), FSA_NULL);
    struct tensor *t[] = {
        output(&c, dQ, a.batch, a.heads, a.seq_q, a.dim),    output(&c, dK, a.batch, a.kv_heads, a.seq_k, a.dim),
        output(&c, dV, a.batch, a.kv_heads, a.seq_k, a.dim), input(&c, Q, a.batch, a.heads, a.seq_q, a.dim),
        input(&c, K, a.batch, a.kv_heads, a.seq_k, a.dim),   input(&c, V, a.batch, a.kv_heads, a.seq_k, a.dim),
        input(&c, O, a.batch, a.heads, a.seq_q, a.dim),      input(&c, dO, a.batch, a.heads, a.seq_q, a.dim),
    };
    numbers(&c, lse, c.status ? 1 : a.batch * a.heads * a.seq_q, false);
    numbers(&c, dlse, c.status ? 1 : a.batch * a.heads * a.seq_q, false);
    check_overlaps(&c, false);
    if (!c.status && c.gpu)
        return backward_on_gpu(&c, t, lse, dlse, a);
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
        [FSA_DEVICE] = "there is no such device, or none that the library was compiled for; or a stream on a CPU",
        [FSA_THREADS] = "threads is negative, or above 1024",
        [FSA_FLAG] = "there is no such flag",
        [FSA_WORKSPACE] = "the workspace is NULL, or too small: fsa_run.needed says how many bytes it must have",
        [FSA_UNSUPPORTED] = "the library does not have this on a GPU: a cache in pages, or sequences of unlike length",
        [FSA_LAUNCH] = "CUDA refused a launch, or something that ran before has failed",
    };
    bool known = status >= 0 && status < (int32_t)(sizeof words / sizeof words[0]);
    return known ? words[status] : "there is no such status";
}

const char *fsa_version(void)
{
    return FSA_VERSION;
}

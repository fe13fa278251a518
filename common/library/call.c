/* call.h's functions: what a caller hands in is checked, and laid out as steps take it. */
#ifdef _OPENMP
#include <omp.h>
#endif

#include "call.h"
#include "floats.h"
#include "inside.h"

#define MOST_THREADS 1024
#define PLACE 128 /* what is in the workspace begins on a multiple: a line of a GPU, and two of a CPU */

_Static_assert(FSA_FP32 == (int)FP32 && FSA_FP16 == (int)FP16 && FSA_BF16 == (int)BF16, "types.h has the same types");

/* ---- what steps ask of the machine: machine.h, inside.h */

/* Of the thread that works for a call: what is left of its part of the workspace, and how many threads there are. */
static _Thread_local struct {
    uintptr_t next, end;
    int threads;
    bool failed; /* a step asked for more than there was */
} here;

size_t lines(size_t bytes)
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

/* For step 10 alone: no row fits its cache. Which rows threads share is decided in from_softmax.c. */
int64_t cpu_cache_bytes(int level)
{
    (void)level;
    return 1;
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

void work_alone(void)
{
    take_threads(1);
    here.threads = 1;
    here.failed = false;
}

void enter(void *memory, size_t bytes)
{
    here.next = (uintptr_t)memory;
    here.end = here.next + lines(bytes);
    here.failed = false;
}

bool ran_out(void)
{
    return here.failed;
}

/* ---- a call */

void fail(struct call *c, bool failed, enum fsa_status status, const char *what)
{
    if (!failed || c->status)
        return;
    c->status = status;
    if (c->run)
        c->run->what = what;
}

struct call begin(struct fsa_run *run, int32_t dtype)
{
    struct call c = { .run = run, .dtype = (enum dtype)dtype, .others = threads_of_openmp() };
    fail(&c, !run, FSA_NULL, "run");
    if (!run)
        return c;
    run->needed = 0;
    run->what = NULL;
    fail(&c, dtype < FSA_FP32 || dtype > FSA_BF16, FSA_DTYPE, "dtype");
    if (run->device == FSA_GPU)
        c.gpu = gpu_here();
    fail(&c, !c.gpu && run->device != FSA_CPU, FSA_DEVICE, "device");
    fail(&c, !c.gpu && run->stream, FSA_DEVICE, "stream");
    fail(&c, run->threads < 0 || run->threads > MOST_THREADS, FSA_THREADS, "threads");
    fail(&c, run->flags & ~(FSA_ASK | FSA_KEPT), FSA_FLAG, "flags");
    here.threads = run->threads > 0 ? run->threads : c.others < MOST_THREADS ? c.others : MOST_THREADS;
    here.failed = false;
    c.base = ((uintptr_t)run->workspace + PLACE - 1) / PLACE * PLACE;
    return c;
}

/* ---- tensors */

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

bool only_asks(const struct call *c)
{
    return c->run && c->run->flags & FSA_ASK;
}

static void check_tensor(struct call *c, struct tensor *t)
{
    int64_t bytes = (int64_t)element_bytes(t->dtype);
    for (int i = 0; i < 4; i++)
        fail(c, t->n[i] < 1 || t->n[i] > MOST_BYTES, FSA_SIZE, t->name);
    fail(c, !t->data && !only_asks(c), FSA_NULL, t->name);
    fail(c, (uintptr_t)t->data % (uintptr_t)bytes != 0, FSA_ALIGNMENT, t->name);
    if (c->status)
        return;
    for (int i = 0; i < 3; i++)
        fail(c, t->n[i] > 1 && t->stride[i] < 0, FSA_STRIDE, t->name);
    fail(c, !fill_strides(t), FSA_SIZE, t->name);
    fail(c, !c->status && !lies_well(t), FSA_STRIDE, t->name);
    fail(c, t->extent > MOST_BYTES / bytes, FSA_SIZE, t->name);
    fail(c, (uintptr_t)t->data + (uintptr_t)t->extent * (uintptr_t)bytes < (uintptr_t)t->data, FSA_SIZE, t->name);
}

struct tensor *tensor(struct call *c, const char *name, const void *data, const int64_t stride[3], struct sizes n, bool written)
{
    struct tensor *t = &c->tensor[c->count++];
    *t = (struct tensor){ .name = name, .data = (char *)data, .dense = (char *)data, .dtype = c->dtype, .as = c->dtype,
                          .n = { n.batch, n.heads, n.seq, n.dim }, .stride = { stride[0], stride[1], stride[2] },
                          .dim = n.dim, .written = written };
    if (!c->status)
        check_tensor(c, t);
    return t;
}

void input(struct call *c, const char *name, const struct fsa_in *in, struct sizes n)
{
    fail(c, !in, FSA_NULL, name);
    if (in)
        tensor(c, name, in->data, (int64_t[]){ in->batch, in->head, in->seq }, n, false);
}

void output(struct call *c, const char *name, const struct fsa_out *out, struct sizes n)
{
    fail(c, !out, FSA_NULL, name);
    if (out)
        tensor(c, name, out->data, (int64_t[]){ out->batch, out->head, out->seq }, n, true);
}

void numbers(struct call *c, const char *name, const void *data, struct sizes n, bool written)
{
    enum dtype dtype = c->dtype;
    c->dtype = FP32;
    if (data)
        tensor(c, name, data, (int64_t[3]){ 0 }, n, written);
    c->dtype = dtype;
}

bool is_dense(const struct tensor *t)
{
    return t->extent == t->n[0] * t->n[1] * t->n[2] * t->n[3] && (t->n[2] == 1 || t->stride[2] == t->n[3]) &&
           (t->n[1] == 1 || t->stride[1] == t->n[2] * t->n[3]);
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

/* Whether b begins or ends in a, which has no gaps. */
static bool inside(const struct tensor *a, const struct tensor *b)
{
    return is_dense(a) && (overlap(a->data, bytes_of(a), b->data, 1) ||
                           overlap(a->data, bytes_of(a), b->data + bytes_of(b) - 1, 1));
}

/* Outputs may lie in each other's gaps: dQ, dK and dV, row by row. Of those nothing is known but that they do not begin in one
   place. */
void check_overlaps(struct call *c, bool in_place)
{
    for (int i = 0; i < c->count; i++)
        for (int j = 0; j < c->count && !c->status; j++) {
            const struct tensor *a = &c->tensor[i], *b = &c->tensor[j];
            if (!a->written || i == j || !a->data || !b->data)
                continue;
            bool fine = b->written ? a->data != b->data && !inside(a, b)
                                   : !overlap(a->data, bytes_of(a), b->data, bytes_of(b)) || (in_place && same_place(a, b));
            fail(c, !fine, FSA_OVERLAP, a->name);
        }
}

/* ---- the workspace, and what is copied into it and out of it */

void *reserve(struct call *c, size_t bytes)
{
    size_t whole = (bytes + PLACE - 1) / PLACE * PLACE, at = c->used;
    fail(c, whole < bytes || whole > SIZE_MAX / 2 - c->used, FSA_SIZE, "workspace");
    if (!c->status)
        c->used += whole;
    return (void *)(c->base + at);
}

void use_copy(struct call *c, struct tensor *t, enum dtype as, int64_t dim)
{
    t->as = as;
    t->dim = dim;
    t->dense = reserve(c, (size_t)(t->n[0] * t->n[1] * t->n[2] * dim) * element_bytes(as));
}

void use(struct call *c, int first, int count, enum dtype as)
{
    for (struct tensor *t = &c->tensor[first]; t < &c->tensor[first + count]; t++)
        if (!c->status && !(t->dtype == as && is_dense(t)))
            use_copy(c, t, as, t->n[3]);
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

/* The same for a GPU. */
static struct copy copy_of(const struct tensor *t, bool back)
{
    struct copy copy = { t->dense, t->data, t->n[0], t->n[1], t->n[2], t->n[3], t->dim, { 0 }, { 0 } };
    int64_t dense[] = { t->n[1] * t->n[2] * t->dim, t->n[2] * t->dim, t->dim };
    if (back)
        copy.to = t->data, copy.from = t->dense, copy.to_dim = t->n[3];
    memcpy(copy.to_stride, back ? t->stride : dense, sizeof dense);
    memcpy(copy.from_stride, back ? dense : t->stride, sizeof dense);
    return copy;
}

/* All inputs that the step does not take as they lie, or back all such outputs: on a GPU at once, for all are of one type. */
static void copy_all(const struct call *c, bool back)
{
    struct copy copies[MOST_TENSORS];
    int count = 0;
    enum dtype as = c->dtype;
    for (int i = 0; i < c->count; i++) {
        const struct tensor *t = &c->tensor[i];
        if (t->written != back || t->dense == t->data)
            continue;
        as = t->as;
        if (c->gpu)
            copies[count++] = copy_of(t, back);
        else
            copy(t, back);
    }
    if (count)
        gpu_copy(copies, count, back ? c->dtype : as, back ? as : c->dtype, c->run->stream);
}

bool start(struct call *c, size_t bytes, bool counts)
{
    struct fsa_run *run = c->run;
    void *memory = reserve(c, bytes);
    if (c->status)
        return false;
    run->needed = c->used ? c->used + PLACE - 1 : 0;
    if (run->flags & FSA_ASK)
        return false;
    fail(c, run->needed && (!run->workspace || run->bytes < run->needed), FSA_WORKSPACE, "workspace");
    fail(c, run->needed && (uintptr_t)run->workspace + run->needed < run->needed, FSA_WORKSPACE, "workspace");
    for (int i = 0; i < c->count && run->needed; i++)
        fail(c, overlap(run->workspace, run->needed, c->tensor[i].data, bytes_of(&c->tensor[i])), FSA_OVERLAP, "workspace");
    if (c->status)
        return false;
    c->memory = memory;
    for (int i = 0; i < c->count; i++)
        c->at[i] = c->tensor[i].dense;
    if (!c->gpu)
        take_threads(here.threads);
    copy_all(c, false);
    if (!c->gpu)
        enter(memory, bytes);
    else if (counts && bytes && !(run->flags & FSA_KEPT))
        gpu_zero(memory, bytes, run->stream);
    return true;
}

enum fsa_status finish(struct call *c)
{
    copy_all(c, true);
    if (c->gpu) {
        fail(c, !gpu_is_well(), FSA_LAUNCH, "device");
    } else {
        fail(c, here.failed, FSA_WORKSPACE, "workspace");
        take_threads(c->others);
    }
    return c->status;
}

/*
 * A call of the library, in three parts. First all tensors are named: input(), output(). Then what is wanted of the workspace:
 * use() and reserve(). Until then nothing is read but tables and lengths, and nothing written. start() says whether there is
 * workspace enough, and copies tensors there that lie otherwise than the step takes them; then the step runs, and finish() brings
 * results back. The first thing that is wrong stays in the call's status, and all that follows it does nothing.
 */
#ifndef CALL_H
#define CALL_H

#include <stdbool.h>

#include "from_softmax.h"
#include "gpu.h"
#include "steps.h"

#define MOST_BYTES ((int64_t)1 << 44) /* of a tensor: products of sizes, and of sizes and threads, then fit 64 bits everywhere */
#define MOST_QUERIES ((int64_t)1 << 30) /* of decoding, all together: with 2^31 keys the same holds of step 41 */
#define MOST_TENSORS 12

struct sizes {
    int64_t batch, heads, seq, dim;
};

struct tensor {
    const char *name;              /* as from_softmax.h calls it */
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
    struct attention p; /* if it is attention */
    struct tensor tensor[MOST_TENSORS];
    int count;
    uintptr_t base; /* of the workspace, on a multiple of 128 */
    size_t used;    /* of it */
    int others;     /* threads that the caller's thread would take: to be restored */
    void *memory;   /* the step's own part of the workspace, once the call has started */
    void *at[MOST_TENSORS]; /* where the step then finds tensors */
};

struct call begin(struct fsa_run *run, int32_t dtype);
void fail(struct call *c, bool failed, enum fsa_status status, const char *what); /* what: as in struct fsa_run */
bool only_asks(const struct call *c); /* then data may be NULL */

/* ---- tensors */

/* One more tensor, with these strides of batch, head and seq. Returns it, whether it is well or not. */
struct tensor *tensor(struct call *c, const char *name, const void *data, const int64_t stride[3], struct sizes n, bool written);
void input(struct call *c, const char *name, const struct fsa_in *in, struct sizes n);
void output(struct call *c, const char *name, const struct fsa_out *out, struct sizes n);
/* Numbers of 4 bytes, dense: an lse, a table. NULL: there are none, and that is well. */
void numbers(struct call *c, const char *name, const void *data, struct sizes n, bool written);
/* No input may lie where an output does, but, in place, exactly there. */
void check_overlaps(struct call *c, bool in_place);
bool is_dense(const struct tensor *t);

/* ---- the workspace */

void *reserve(struct call *c, size_t bytes); /* for as long as the call lasts */
/* The step takes tensors `first` to first + count - 1 dense and as `as`: one that is not both, from the workspace. */
void use(struct call *c, int first, int count, enum dtype as);
/* It takes this one from there in any case, with so many numbers in a row. */
void use_copy(struct call *c, struct tensor *t, enum dtype as, int64_t dim);
/* Whether the step may run, with `bytes` of the workspace for itself, on a GPU zeros if it counts there: nothing was wrong, there
   is enough, and more than the question was asked. */
bool start(struct call *c, size_t bytes, bool counts);
enum fsa_status finish(struct call *c);

/* ---- for threads of a CPU that each call a step */

void work_alone(void);                  /* this one has no others */
size_t lines(size_t bytes);             /* rounded up to whole lines of a cache, as what a step takes is */
void enter(void *memory, size_t bytes); /* from here on a step's scratch(), and its malloc(), give out these bytes */
bool ran_out(void);                     /* of them: never, unless a step changes and the bytes that it is given do not */

/* ---- steps by the type of their elements */

#define BY_TYPE(type, fp32, fp16, bf16, ...) \
    ((type) == FP16 ? fp16(__VA_ARGS__) : (type) == BF16 ? bf16(__VA_ARGS__) : fp32(__VA_ARGS__))
#define ON_CPU(type, step, ...) BY_TYPE(type, step##_cpu, step##_fp16_cpu, step##_bf16_cpu, __VA_ARGS__)

/* ---- on_gpu.c: the functions on a GPU, of which the tensors are named */

enum { O, Q, K, V }; /* of attention; of its gradient dQ, dK, dV, Q, K, V, O, dO */

enum fsa_status softmax_on_gpu(struct call *c);
enum fsa_status softmax_backward_on_gpu(struct call *c);
enum fsa_status attention_on_gpu(struct call *c, float *lse);
enum fsa_status paged_attention_on_gpu(struct call *c, float *lse, const struct fsa_cache *cache);
enum fsa_status attention_backward_on_gpu(struct call *c, const float *lse, const float *dlse);

#endif

/*
 * What the library's door costs: each function in turn with the step that it calls, in one process, caches cold, where the step
 * is fp32 if it takes nothing else, and its tensors are dense; and a call on hardly anything, caches warm. `make library-speed`,
 * on a machine that does nothing else; ARGS=1 takes a second a line and not 3. On a busy one OMP_NUM_THREADS=1 and ARGS="1
 * processor" count processor time, which leaves out what others took, but not what they did to caches and memory.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "from_softmax.h"
#include "harness.h"
#include "steps.h"

enum kind { SOFTMAX, SOFTMAX_BACKWARD, ATTENTION, BACKWARD, DECODE };
enum layout { DENSE, BY_POSITION, ROOM_BEHIND }; /* of the library's tensors; the step's are dense */

struct line {
    const char *name;
    enum kind kind;
    int64_t batch, heads, kv_heads, seq_q, seq_k, dim; /* rows and columns of a softmax: seq_q and dim */
    int32_t dtype;
    enum layout layout;
};

static const struct line lines[] = {
    { "softmax, step 07", SOFTMAX, 1, 1, 1, 2048, 1, 8192, FSA_FP32, DENSE },
    { "softmax, step 07", SOFTMAX, 1, 1, 1, 2048, 1, 8192, FSA_BF16, DENSE },
    { "softmax, step 10", SOFTMAX, 1, 1, 1, 1, 1, 1 << 24, FSA_FP32, DENSE },
    { "gradient, step 42", SOFTMAX_BACKWARD, 1, 1, 1, 2048, 1, 8192, FSA_FP32, DENSE },
    { "attention, step 15", ATTENTION, 1, 8, 8, 1024, 1024, 64, FSA_FP32, DENSE },
    { "attention, (b, s, h, d)", ATTENTION, 1, 8, 8, 1024, 1024, 64, FSA_FP32, BY_POSITION },
    { "attention, 16 bits", ATTENTION, 1, 8, 8, 1024, 1024, 64, FSA_BF16, DENSE },
    { "backward, step 47", BACKWARD, 1, 4, 4, 1024, 1024, 64, FSA_FP32, DENSE },
    { "backward, step 47", BACKWARD, 1, 4, 4, 1024, 1024, 64, FSA_BF16, DENSE },
    { "backward, (b, s, h, d)", BACKWARD, 1, 4, 4, 1024, 1024, 64, FSA_FP32, BY_POSITION },
    { "decoding, step 35", DECODE, 1, 32, 8, 1, 16384, 128, FSA_FP32, DENSE },
    { "decoding, step 35", DECODE, 1, 32, 8, 1, 16384, 128, FSA_BF16, DENSE },
    { "decoding, room behind", DECODE, 1, 32, 8, 1, 16384, 128, FSA_BF16, ROOM_BEHIND },
    { "decoding, (b, s, h, d)", DECODE, 1, 32, 8, 1, 16384, 128, FSA_BF16, BY_POSITION },
    { "20 queries, step 35", ATTENTION, 1, 8, 8, 20, 4096, 64, FSA_FP32, DENSE },
    { "21 queries, step 15", ATTENTION, 1, 8, 8, 21, 4096, 64, FSA_FP32, DENSE },
};
static const struct line tiny[] = {
    { "softmax of 8", SOFTMAX, 1, 1, 1, 1, 1, 8, FSA_FP32, DENSE },
    { "gradient of 8", SOFTMAX_BACKWARD, 1, 1, 1, 1, 1, 8, FSA_FP32, DENSE },
    { "attention, 21 x 1", ATTENTION, 1, 1, 1, 21, 1, 8, FSA_FP32, DENSE },
    { "attention, 1 x 1", ATTENTION, 1, 1, 1, 1, 1, 8, FSA_FP32, DENSE },
    { "backward, 1 x 1", BACKWARD, 1, 1, 1, 1, 1, 8, FSA_FP32, DENSE },
};

enum { Q, K, V, O, CHANGE, DQ, DK, DV, TENSORS };

struct job {
    struct line l;
    struct buffer t[TENSORS], dense[TENSORS]; /* the library's, and the step's, which are fp32 where it takes nothing else */
    struct buffer lse, workspace;
    struct fsa_run run;
};

static bool of_keys(int tensor)
{
    return tensor == K || tensor == V || tensor == DK || tensor == DV;
}

static bool is_used(enum kind kind, int tensor)
{
    static const char *const used[] = { [SOFTMAX] = "q  o", [SOFTMAX_BACKWARD] = "q  oc", [ATTENTION] = "qkvo",
                                        [BACKWARD] = "qkvocqkv", [DECODE] = "qkvo" };
    return tensor < (int)strlen(used[kind]) && used[kind][tensor] != ' ';
}

static enum dtype step_dtype(const struct line *l)
{
    return l->kind == ATTENTION && l->seq_q > 20 ? FP32 : (enum dtype)l->dtype;
}

/* The step takes the very tensors that the library does. */
static bool is_alike(const struct line *l)
{
    return l->layout == DENSE && step_dtype(l) == (enum dtype)l->dtype;
}

static struct fsa_in tensor(const struct job *j, int i)
{
    const struct line *l = &j->l;
    int64_t heads = of_keys(i) ? l->kv_heads : l->heads, seq = of_keys(i) ? l->seq_k : l->seq_q;
    struct fsa_in t = { j->t[i].data, 0, 0, 0 };
    if (l->layout == BY_POSITION)
        t = (struct fsa_in){ t.data, seq * heads * l->dim, l->dim, heads * l->dim };
    if (l->layout == ROOM_BEHIND && of_keys(i))
        t = (struct fsa_in){ t.data, heads * (seq + 64) * l->dim, (seq + 64) * l->dim, l->dim };
    return t;
}

static enum fsa_status call(struct job *j)
{
    const struct line *l = &j->l;
    const struct fsa_problem p = { l->batch, l->heads, l->kv_heads, l->seq_q, l->seq_k, l->dim, 0.1f, 0, l->dtype };
    static const struct fsa_cache all = { NULL, NULL, 0, 0, 0 };
    struct fsa_in t[TENSORS];
    struct fsa_out out[TENSORS];
    for (int i = 0; i < TENSORS; i++) {
        t[i] = tensor(j, i);
        out[i] = (struct fsa_out){ j->t[i].data, t[i].batch, t[i].head, t[i].seq };
    }
    switch (l->kind) {
    case SOFTMAX:   return fsa_softmax(out[O].data, 0, t[Q].data, 0, l->seq_q, l->dim, l->dtype, &j->run);
    case ATTENTION: return fsa_attention(&p, &out[O], j->lse.data, &t[Q], &t[K], &t[V], &j->run);
    case DECODE:    return fsa_decode(&p, &out[O], j->lse.data, &t[Q], &t[K], &t[V], &all, &j->run);
    case BACKWARD:
        return fsa_attention_backward(&p, &out[DQ], &out[DK], &out[DV], &t[Q], &t[K], &t[V], &t[O], j->lse.data, &t[CHANGE], NULL,
                                      &j->run);
    default:
        return fsa_softmax_backward(out[O].data, 0, t[Q].data, 0, t[CHANGE].data, 0, l->seq_q, l->dim, l->dtype, &j->run);
    }
}

static void run_library(void *job)
{
    call(job);
}

static void run_step(void *job)
{
    struct job *j = job;
    const struct line *l = &j->l;
    const struct attention p = { l->batch, l->heads, l->kv_heads, l->seq_q, l->seq_k, l->dim, false, 0.1f };
    void *t[TENSORS], *lse = j->lse.data;
    bool bf16 = step_dtype(l) == BF16;
    for (int i = 0; i < TENSORS; i++)
        t[i] = j->dense[i].data;
    if (l->kind == BACKWARD && bf16)
        joined_backward_bf16_cpu(t[DQ], t[DK], t[DV], t[Q], t[K], t[V], t[O], lse, t[CHANGE], NULL, p);
    else if (l->kind == SOFTMAX && bf16)
        split_softmax_bf16_cpu(t[O], t[Q], l->seq_q, l->dim);
    else if (l->kind == SOFTMAX)
        split_softmax_cpu(t[O], t[Q], l->seq_q, l->dim);
    else if (l->kind == SOFTMAX_BACKWARD)
        softmax_backward_cpu(t[O], t[Q], t[CHANGE], l->seq_q, l->dim);
    else if (l->kind == BACKWARD)
        joined_backward_cpu(t[DQ], t[DK], t[DV], t[Q], t[K], t[V], t[O], lse, t[CHANGE], NULL, p);
    else if (l->seq_q > 20)
        register_tiled_attention_cpu(t[O], lse, t[Q], t[K], t[V], p);
    else if (bf16)
        grouped_attention_bf16_cpu(t[O], lse, t[Q], t[K], t[V], p);
    else
        grouped_attention_cpu(t[O], lse, t[Q], t[K], t[V], p);
}

static struct job *job_new(const struct line *l)
{
    static struct job j;
    j = (struct job){ .l = *l, .run = { .flags = FSA_ASK } };
    int64_t queries = l->batch * l->heads * l->seq_q, keys = l->batch * l->kv_heads * (l->seq_k + 64); /* room behind */
    for (int i = 0; i < TENSORS; i++) {
        int64_t rows = of_keys(i) ? keys : queries;
        if (!is_used(l->kind, i))
            continue;
        j.t[i] = buffer_new((size_t)(rows * l->dim) * dtype_bytes((enum dtype)l->dtype), &cpu_device);
        input_fill(j.t[i].data, (enum dtype)l->dtype, rows, l->dim, "normal", (uint64_t)i + 1);
        j.dense[i] = j.t[i];
        if (is_alike(l))
            continue;
        j.dense[i] = buffer_new((size_t)(rows * l->dim) * dtype_bytes(step_dtype(l)), &cpu_device);
        input_fill(j.dense[i].data, step_dtype(l), rows, l->dim, "normal", (uint64_t)i + 1);
    }
    j.lse = buffer_new((size_t)queries * sizeof(float), &cpu_device);
    input_fill(j.lse.data, FP32, queries, 1, "normal", 9);
    enum fsa_status status = call(&j);
    if (status)
        fatal("%s: %s", l->name, fsa_words((int32_t)status));
    j.workspace = buffer_new(j.run.needed + 1, &cpu_device);
    j.run.flags = 0, j.run.workspace = j.workspace.data, j.run.bytes = j.workspace.bytes;
    return &j;
}

static void job_free(struct job *j)
{
    for (int i = 0; i < TENSORS; i++)
        if (buffer_free(&j->t[i]), !is_alike(&j->l))
            buffer_free(&j->dense[i]);
    buffer_free(&j->lse), buffer_free(&j->workspace);
}

/* Microseconds of a call, the least of some thousands in turn: step and library. */
static void time_tiny(const struct line *l)
{
    struct job *j = job_new(l);
    double least[2] = { INFINITY, INFINITY };
    for (int round = 0; round < 4000; round++)
        for (int i = 0; i < 2; i++) {
            double begin = now();
            for (int k = 0; k < 10; k++)
                i ? run_library(j) : run_step(j);
            double us = (now() - begin) * 1e5;
            least[i] = us < least[i] ? us : least[i];
        }
    printf("%-24s %-5s %10.2f %10.2f us  %+.2f us\n", l->name, dtype_name((enum dtype)l->dtype), least[0], least[1],
           least[1] - least[0]);
    job_free(j);
}

static double processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    double budget = argc > 1 ? strtod(argv[1], NULL) : 3;
    if (!(budget > 0) || (argc > 2 && strcmp(argv[2], "processor")) || argc > 3)
        return fprintf(stderr, "usage: library_speed [SECONDS A LINE [processor]]\n"), 2;
    if (argc > 2)
        now = processor_seconds;
    printf("%s, %d threads\n%-24s %-5s %10s %10s ms  library over step: medians, p10s\n", cpu_name(), cpu_threads(), "", "",
           "step", "library");
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct job *j = job_new(&lines[i]);
        struct work w[] = { { .run = run_step, .arg = j, .bytes = 1 }, { .run = run_library, .arg = j, .bytes = 1 } };
        time_in_turn(w, 2, 0, budget, run_once_cpu);
        printf("%-24s %-5s %10.4f %10.4f ms  %.3f, %.3f\n", lines[i].name, dtype_name((enum dtype)lines[i].dtype),
               w[0].time.median, w[1].time.median, w[1].time.median / w[0].time.median, w[1].time.p10 / w[0].time.p10);
        job_free(j);
    }
    for (size_t i = 0; i < sizeof tiny / sizeof *tiny; i++)
        time_tiny(&tiny[i]);
    return 0;
}

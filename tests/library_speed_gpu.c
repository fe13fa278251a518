/*
 * What the library's door costs on a GPU: each function in turn with the step that it calls, in one process, caches cold; and how
 * long a call takes the host, which is what it does before the GPU has anything to do. `make library-speed-gpu`; ARGS=1 takes a
 * second a line and not 2, ARGS="1 causal" the lines that are so named. The step has two turns: so far are two of a kind apart.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "from_softmax.h"
#include "harness.h"
#include "steps.h"

enum kind { SOFTMAX, ATTENTION, PAGED, BACKWARD };

#define PAGE 64 /* keys of a page; sequences have from a batch-th to all of seq_k keys */

struct line {
    const char *name;
    enum kind kind;
    int64_t batch, heads, kv_heads, seq_q, seq_k, dim; /* rows and columns of a softmax: seq_q and dim */
    bool causal;
    enum dtype dtype;
    const struct attention_step *step; /* NULL: softmax */
    bool by_position;                  /* (batch, seq, heads, dim); the step's is dense */
};

static const struct line lines[] = {
    { "softmax", SOFTMAX, 1, 1, 1, 16384, 1, 8192, false, FP32, NULL, false },
    { "softmax", SOFTMAX, 1, 1, 1, 16384, 1, 8192, false, BF16, NULL, false },
    { "attention, 32", ATTENTION, 4, 16, 16, 4096, 4096, 128, false, BF16, &optimistic_attention, false },
    { "attention, 24, causal", ATTENTION, 4, 16, 16, 4096, 4096, 128, true, BF16, &optimistic_attention, false },
    { "attention, 32", ATTENTION, 4, 16, 16, 4096, 4096, 64, false, FP16, &optimistic_attention, false },
    { "attention, (b, s, h, d)", ATTENTION, 4, 16, 16, 4096, 4096, 128, false, BF16, &optimistic_attention, true },
    { "the same, causal", ATTENTION, 4, 16, 16, 4096, 4096, 128, true, BF16, &optimistic_attention, true },
    { "attention, (b, s, h, d)", ATTENTION, 4, 16, 16, 4096, 4096, 64, true, FP16, &optimistic_attention, true },
    { "the same, short", ATTENTION, 16, 32, 8, 512, 512, 128, true, BF16, &optimistic_attention, true },
    { "attention, 15", ATTENTION, 1, 16, 16, 4096, 4096, 128, false, FP32, &register_tiled_attention, false },
    { "attention, 15", ATTENTION, 1, 16, 16, 4096, 4096, 128, false, FP32, &register_tiled_attention, true },
    { "decoding, 40", ATTENTION, 1, 32, 8, 1, 16384, 128, false, BF16, &streamed_attention, false },
    { "decoding, 40", ATTENTION, 16, 32, 8, 1, 16384, 128, false, BF16, &streamed_attention, false },
    { "decoding, (b, s, h, d)", ATTENTION, 16, 32, 8, 1, 16384, 128, false, BF16, &streamed_attention, true },
    { "pages, 41", PAGED, 16, 32, 8, 1, 16384, 128, false, BF16, &paged_attention, false },
    { "(pool, page, heads, dim)", PAGED, 16, 32, 8, 1, 16384, 128, false, BF16, &paged_attention, true },
    { "backward, 47", BACKWARD, 1, 4, 4, 2048, 2048, 64, true, FP32, &joined_backward, false },
    { "backward, 66", BACKWARD, 4, 16, 16, 4096, 4096, 128, true, BF16, &hopper_backward, false },
    { "backward, (b, s, h, d)", BACKWARD, 4, 16, 16, 4096, 4096, 128, true, BF16, &hopper_backward, true },
};

enum { O, Q, K, V, CHANGE, DQ, DK, DV, TENSORS };

struct job {
    struct line l;
    struct buffer t[TENSORS], lse, zeros, workspace; /* zeros: the step's workspace */
    struct buffer table, lengths;
    struct pages pages; /* what the step is told of them: it knows the sum of the lengths, which the library does not */
    struct fsa_run run;
};

static struct attention problem(const struct line *l)
{
    return (struct attention){ l->batch, l->heads, l->kv_heads, l->seq_q, l->seq_k, l->dim, l->causal, 0.088f };
}

static bool of_keys(int tensor)
{
    return tensor == K || tensor == V || tensor == DK || tensor == DV;
}

static struct fsa_in tensor(const struct job *j, int i)
{
    const struct line *l = &j->l;
    int64_t heads = of_keys(i) ? l->kv_heads : l->heads, seq = of_keys(i) ? l->seq_k : l->seq_q;
    struct fsa_in t = { j->t[i].data, 0, 0, 0 };
    if (l->kind == PAGED && of_keys(i))
        seq = PAGE;
    return l->by_position ? (struct fsa_in){ t.data, seq * heads * l->dim, l->dim, heads * l->dim } : t;
}

static enum fsa_status call(struct job *j)
{
    const struct line *l = &j->l;
    const struct fsa_problem p = { l->batch, l->heads, l->kv_heads, l->seq_q, l->seq_k, l->dim, 0.088f, l->causal,
                                   (int32_t)l->dtype };
    struct fsa_in t[TENSORS];
    struct fsa_out out[TENSORS];
    for (int i = 0; i < TENSORS; i++) {
        t[i] = tensor(j, i);
        out[i] = (struct fsa_out){ j->t[i].data, t[i].batch, t[i].head, t[i].seq };
    }
    if (l->kind == SOFTMAX)
        return fsa_softmax(j->t[O].data, 0, j->t[Q].data, 0, l->seq_q, l->dim, (int32_t)l->dtype, &j->run);
    if (l->kind == ATTENTION)
        return fsa_attention(&p, &out[O], j->lse.data, &t[Q], &t[K], &t[V], &j->run);
    if (l->kind == PAGED) {
        const struct fsa_cache cache = { j->lengths.data, j->table.data, PAGE, j->pages.pool, j->pages.most };
        return fsa_decode(&p, &out[O], j->lse.data, &t[Q], &t[K], &t[V], &cache, &j->run);
    }
    return fsa_attention_backward(&p, &out[DQ], &out[DK], &out[DV], &t[Q], &t[K], &t[V], &t[O], j->lse.data, &t[CHANGE], NULL,
                                  &j->run);
}

static void run_library(void *job)
{
    struct job *j = job;
    j->run.flags = 0;
    call(j);
}

static void run_kept(void *job)
{
    struct job *j = job;
    j->run.flags = FSA_KEPT;
    call(j);
}

static void run_step(void *job)
{
    struct job *j = job;
    const struct line *l = &j->l;
    void *t[TENSORS];
    for (int i = 0; i < TENSORS; i++)
        t[i] = j->t[i].data;
    if (l->kind == SOFTMAX)
        softmax_run(&split_softmax, &gpu_device, l->dtype, t[O], t[Q], l->seq_q, l->dim, j->zeros.data);
    else if (l->kind == ATTENTION)
        attention_run(l->step, &gpu_device, l->dtype, t[O], j->lse.data, t[Q], t[K], t[V], problem(l), j->zeros.data, NULL);
    else if (l->kind == PAGED)
        paged_run(l->step, &gpu_device, l->dtype, t[O], j->lse.data, t[Q], t[K], t[V], j->pages, problem(l), j->zeros.data, NULL);
    else if (l->dtype == FP32)
        l->step->backward.gpu(t[DQ], t[DK], t[DV], t[Q], t[K], t[V], t[O], j->lse.data, t[CHANGE], NULL, problem(l),
                              j->zeros.data, NULL);
    else
        l->step->backward.gpu_bf16(t[DQ], t[DK], t[DV], t[Q], t[K], t[V], t[O], j->lse.data, t[CHANGE], NULL, problem(l),
                                   j->zeros.data, NULL);
}

static struct buffer zeros(size_t bytes)
{
    struct buffer b = buffer_new(bytes + 1, &gpu_device);
    gpu_fill(b.data, 0, b.bytes);
    return b;
}

/* Pages in an order of no meaning. */
static void new_pages(struct job *j)
{
    const struct line *l = &j->l;
    int64_t most = (l->seq_k + PAGE - 1) / PAGE, pool = l->batch * most;
    struct buffer table = buffer_new((size_t)pool * sizeof(int32_t), &cpu_device),
                  lengths = buffer_new((size_t)l->batch * sizeof(int32_t), &cpu_device);
    j->table = buffer_new(table.bytes, &gpu_device), j->lengths = buffer_new(lengths.bytes, &gpu_device);
    j->pages = (struct pages){ PAGE, pool, most, 0, j->table.data, j->lengths.data };
    for (int64_t i = 0; i < pool; i++)
        ((int32_t *)table.data)[i] = (int32_t)(i * 1000003 % pool);
    for (int64_t b = 0; b < l->batch; b++) {
        int64_t keys = l->seq_k * (b + 1) / l->batch;
        ((int32_t *)lengths.data)[b] = (int32_t)keys;
        j->pages.keys += keys;
    }
    gpu_upload(j->table.data, table.data, table.bytes), gpu_upload(j->lengths.data, lengths.data, lengths.bytes);
    buffer_free(&table), buffer_free(&lengths);
}

static size_t workspace_of(const struct job *j)
{
    const struct line *l = &j->l;
    if (l->kind == SOFTMAX)
        return split_softmax.workspace(l->seq_q, l->dim, l->dtype);
    if (l->kind == PAGED)
        return l->step->paged.workspace(problem(l), j->pages, l->dtype);
    return l->step->workspace ? l->step->workspace(problem(l), l->dtype) : 0;
}

static struct job *job_new(const struct line *l)
{
    static struct job j;
    j = (struct job){ .l = *l, .run = { .device = FSA_GPU, .flags = FSA_ASK } };
    for (int i = 0; i < (l->kind == BACKWARD ? TENSORS : CHANGE); i++) {
        int64_t rows = of_keys(i) ? l->batch * l->kv_heads * l->seq_k : l->batch * l->heads * l->seq_q;
        struct buffer host = buffer_new((size_t)(rows * l->dim) * dtype_bytes(l->dtype), &cpu_device);
        input_fill(host.data, l->dtype, rows, l->dim, "normal", (uint64_t)i + 1);
        j.t[i] = buffer_new(host.bytes, &gpu_device);
        gpu_upload(j.t[i].data, host.data, host.bytes);
        buffer_free(&host);
    }
    j.lse = zeros((size_t)(l->batch * l->heads * l->seq_q) * sizeof(float));
    if (l->kind == PAGED)
        new_pages(&j);
    j.zeros = zeros(workspace_of(&j));
    enum fsa_status status = call(&j);
    if (status)
        fatal("%s: %s", l->name, fsa_words((int32_t)status));
    j.workspace = zeros(j.run.needed);
    j.run.workspace = j.workspace.data, j.run.bytes = j.workspace.bytes;
    return &j;
}

static void job_free(struct job *j)
{
    for (int i = 0; i < (j->l.kind == BACKWARD ? TENSORS : CHANGE); i++)
        buffer_free(&j->t[i]);
    if (j->l.kind == PAGED)
        buffer_free(&j->table), buffer_free(&j->lengths);
    buffer_free(&j->lse), buffer_free(&j->zeros), buffer_free(&j->workspace);
}

/* Microseconds of host time that a call takes, the least of many: of problems so small that the GPU keeps up. */
static void time_host(const struct line *l)
{
    struct job *j = job_new(l);
    void (*const run[])(void *) = { run_step, run_library, run_kept };
    double least[3] = { INFINITY, INFINITY, INFINITY };
    for (int round = 0; round < 600; round++) {
        int i = round % 3;
        gpu_finish(l->name);
        double begin = now();
        for (int k = 0; k < 50; k++)
            run[i](j);
        least[i] = fmin(least[i], (now() - begin) * 1e6 / 50);
    }
    gpu_finish(l->name);
    printf("%-24s %-5s %10.2f %10.2f %10.2f us  %+.2f, %+.2f us\n", l->name, dtype_name(l->dtype), least[0], least[1], least[2],
           least[1] - least[0], least[2] - least[0]);
    job_free(j);
}

int main(int argc, char **argv)
{
    double budget = argc > 1 ? strtod(argv[1], NULL) : 2;
    const char *some = argc > 2 ? argv[2] : "";
    if (!(budget > 0) || argc > 3)
        return fprintf(stderr, "usage: library_speed_gpu [SECONDS A LINE [PART OF A NAME]]\n"), 2;
    if (gpu_count() == 0) {
        printf("library: skipped: %s\n", gpu_missing());
        return 0;
    }
    printf("%s\n%-24s %-5s %10s %10s %10s ms  over step: library, with FSA_KEPT, the step again: medians\n", gpu_name(), "", "",
           "step", "library", "kept");
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        const struct line *l = &lines[i];
        if (!strstr(l->name, some) || (l->step && attention_gpu_missing(l->step, l->dtype, l->dim)))
            continue;
        struct job *j = job_new(l);
        struct work w[] = { { .run = run_step, .arg = j, .bytes = 1 }, { .run = run_library, .arg = j, .bytes = 1 },
                            { .run = run_kept, .arg = j, .bytes = 1 }, { .run = run_step, .arg = j, .bytes = 1 } };
        time_in_turn(w, 4, 0, budget, run_once_gpu);
        double step = w[0].time.median;
        printf("%-24s %-5s %10.4f %10.4f %10.4f ms  %.3f, %.3f, %.3f  %zu bytes of workspace\n", l->name, dtype_name(l->dtype),
               step, w[1].time.median, w[2].time.median, w[1].time.median / step, w[2].time.median / step,
               w[3].time.median / step, j->run.needed);
        job_free(j);
    }
    const struct line tiny[] = {
        { "softmax of 8", SOFTMAX, 1, 1, 1, 1, 1, 8, false, FP32, NULL, false },
        { "attention, 32", ATTENTION, 1, 1, 1, 64, 64, 64, false, BF16, &optimistic_attention, false },
        { "attention, (b, s, h, d)", ATTENTION, 2, 2, 2, 64, 64, 64, false, BF16, &optimistic_attention, true },
        { "attention, 15", ATTENTION, 1, 1, 1, 17, 1, 8, false, FP32, &register_tiled_attention, false },
        { "decoding, 40", ATTENTION, 1, 1, 1, 1, 8, 64, false, BF16, &streamed_attention, false },
        { "pages, 41", PAGED, 2, 1, 1, 1, PAGE, 64, false, BF16, &paged_attention, false },
        { "backward, 47", BACKWARD, 1, 1, 1, 1, 1, 8, false, FP32, &joined_backward, false },
        { "backward, 66", BACKWARD, 1, 1, 1, 1, 1, 64, false, BF16, &hopper_backward, false },
    };
    for (size_t i = 0; i < sizeof tiny / sizeof *tiny; i++)
        if (strstr(tiny[i].name, some) && (!tiny[i].step || !attention_gpu_missing(tiny[i].step, tiny[i].dtype, tiny[i].dim)))
            time_host(&tiny[i]);
    return 0;
}

/*
 * What the programs of steps that compute gradients have of their own. The problem is that of the forward step: the same options,
 * shapes and families. What that step would have made (y; O and lse) is computed here, in double, and rounded once; or it is in
 * files, which are compared with that.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

/* What no gradient is asked of. */
static void refuse_input(const struct options *o, const char *family, const char *why)
{
    if (strcmp(o->input, family) == 0)
        usage_error("--input %s: %s", family, why);
}

/* ---- softmax */

enum { Y, DY, DX };

static void softmax_inputs(const struct options *o, struct buffer *inputs)
{
    inputs[Y] = input_tensor(o);
    inputs[DY] = input_change(o, o->seed + 1);
#pragma omp parallel
    {
        double *row = malloc((size_t)o->cols * sizeof *row);
        if (!row)
            fatal("not enough CPU memory: %.2f GiB needed for a row", (double)o->cols * sizeof *row / (1 << 30));
#pragma omp for
        for (int64_t r = 0; r < o->rows; r++) {
            char *x = (char *)inputs[Y].data + (size_t)(r * o->cols) * dtype_bytes(o->dtype);
            reference_softmax_row(row, x, o->dtype, o->cols);
            for (int64_t col = 0; col < o->cols; col++)
                element_set(x, o->dtype, col, row[col]);
        }
        free(row);
    }
}

static void softmax_call(const struct run *r)
{
    const struct softmax_step *s = r->step;
    void *dx = r->tensor[DX].data;
    const void *y = r->tensor[Y].data, *dy = r->tensor[DY].data;
    int64_t rows = r->o->rows, cols = r->o->cols;
    if (r->device->apart)
        s->backward_gpu(dx, y, dy, rows, cols, r->workspace.data, NULL);
    else
        CALL_FOR(r->o->dtype, s->backward_cpu, dx, y, dy, rows, cols);
}

static struct verdict softmax_verify(const struct run *r)
{
    const struct options *o = r->o;
    return verify_softmax_backward(r->host[DX].data, r->host[Y].data, r->host[DY].data, o->dtype, o->rows, o->cols,
                                   softmax_rounding(r->step, r->device, o->dtype));
}

static void softmax_problem(const struct options *o)
{
    printf("y and dy are (%lld, %lld) %s, y the softmax of x, %s; ", (long long)o->rows, (long long)o->cols,
           dtype_name(o->dtype), o->input);
    print_bytes(2 * (double)o->rows * (double)o->cols * (double)dtype_bytes(o->dtype));
    printf(" to read and half as much to write\n");
}

static void softmax_finish(const void *step, struct options *o)
{
    if (o->traced)
        usage_error("--trace: it shows how a softmax grows, and this step has one already");
    softmax_kind.finish(step, o);
    input_results_sizes(o);
}

struct kind softmax_backward_kind(void)
{
    struct kind k = softmax_kind;
    k.inputs = 2;
    k.error = "worst error %.2g of the row's largest, allowed there %.2g";
    k.compulsory = "two read once + one written once";
    k.finish = softmax_finish;
    k.inputs_new = softmax_inputs;
    k.call = softmax_call;
    k.verify = softmax_verify;
    k.print_problem = softmax_problem;
    return k;
}

int softmax_backward_main(const struct softmax_step *step, const struct softmax_step *before, int argc, char **argv)
{
    struct kind k = softmax_backward_kind();
    return program_main(&k, step, step->name, step->idea, before, before ? before->name : NULL, argc, argv);
}

/* ---- attention */

enum { Q, K, V, O, LSE, DO, DLSE, DQ, DK, DV };

static int64_t queries_of(const struct options *o)
{
    return o->attention.batch * o->attention.heads * o->attention.seq_q;
}

static size_t attention_tensor_bytes(const struct options *o, int tensor)
{
    const struct attention *p = &o->attention;
    bool of_keys = tensor == K || tensor == V || tensor == DK || tensor == DV;
    int64_t rows = of_keys ? p->batch * p->kv_heads * p->seq_k : queries_of(o);
    return tensor == LSE || tensor == DLSE ? (size_t)rows * sizeof(float) : (size_t)(rows * p->dim) * dtype_bytes(o->dtype);
}

static struct buffer tensor_new(const struct options *o, int tensor)
{
    return buffer_new(attention_tensor_bytes(o, tensor), &cpu_device);
}

/*
 * O and lse, some rows at a time: the answers of verify.c take 16 bytes an element. From files they may be those of any forward
 * step, whatever it rounds to 16 bits on the way.
 */
static void forward(const struct options *o, struct buffer *t)
{
    const struct attention *p = &o->attention;
    const struct attention_rounding how = { .scores = o->o_path, .weights = o->o_path };
    int64_t some = (1 << 22) / p->dim, rows = queries_of(o), *row = malloc((size_t)some * sizeof *row);
    if (!row)
        fatal("not enough CPU memory for %lld rows", (long long)some);
    for (int64_t first = 0; first < rows; first += some) {
        int64_t count = rows - first < some ? rows - first : some;
        for (int64_t i = 0; i < count; i++)
            row[i] = first + i;
        struct answers a = reference_attention(t[Q].data, t[K].data, t[V].data, o->dtype, *p, how, row, count,
                                               o->gpu && gpu_count() > 0);
        struct verdict v = o->o_path ? verify_answers(t[O].data, t[LSE].data, &a) : (struct verdict){ 0 };
        if (v.wrong)
            fatal("--o '%s', --lse '%s': not what attention makes of this Q, K and V: %s", o->o_path, o->lse_path, v.what);
        for (int64_t i = 0; i < count && !o->o_path; i++) {
            ((float *)t[LSE].data)[first + i] = (float)a.lse[i].want;
            for (int64_t at = i * p->dim; at < (i + 1) * p->dim; at++)
                element_set(t[O].data, o->dtype, first * p->dim + at, a.want[at]);
        }
        answers_free(&a);
    }
    free(row);
}

/* Files may hold what no family does that is let through. (An lse may be -inf, of a query without keys; forward() looks.) */
static void require_finite(const struct options *o, const struct buffer *inputs)
{
    const struct { int tensor; const char *option, *path; enum dtype dtype; } all[] = {
        { Q, "q", o->q_path, o->dtype }, { K, "k", o->k_path, o->dtype }, { V, "v", o->v_path, o->dtype },
        { O, "o", o->o_path, o->dtype }, { DO, "do", o->change_path, o->dtype }, { DLSE, "dlse", o->dlse_path, FP32 },
    };
    for (int i = 0; i < 6; i++)
        if (all[i].path)
            input_require_finite(all[i].option, all[i].path, &inputs[all[i].tensor], all[i].dtype);
}

static void attention_inputs(const struct options *o, struct buffer *inputs)
{
    struct qkv t = input_qkv(o);
    inputs[Q] = t.q, inputs[K] = t.k, inputs[V] = t.v;
    int64_t rows = queries_of(o);
    inputs[O] = o->o_path ? input_file("o", o->o_path, o->dtype, rows * o->attention.dim) : tensor_new(o, O);
    inputs[LSE] = o->o_path ? input_file("lse", o->lse_path, FP32, rows) : tensor_new(o, LSE);
    inputs[DO] = input_change(o, o->seed + 3);
    inputs[DLSE] = o->dlse_path ? input_file("dlse", o->dlse_path, FP32, rows) : tensor_new(o, DLSE);
    if (o->dlse_path && !o->change_path) /* a loss of lse alone */
        memset(inputs[DO].data, 0, inputs[DO].bytes);
    if (o->change_path && !o->dlse_path) /* and of O alone */
        memset(inputs[DLSE].data, 0, inputs[DLSE].bytes);
    else if (!o->dlse_path)
        input_fill(inputs[DLSE].data, FP32, rows, 1, "normal", o->seed + 4);
    require_finite(o, inputs);
    forward(o, inputs);
}

static double attention_useful(const struct options *o)
{
    return 2 * attention_bytes(o->attention, o->dtype); /* Q, K, V, O, and how the loss changes with each */
}

/* A head of K and V with its group: no gradient depends on another one's. */
static int64_t attention_groups(const struct options *o)
{
    return o->attention.batch * o->attention.kv_heads;
}

static bool attention_any_order(const void *step, const struct device *device)
{
    return device->apart && ((const struct attention_step *)step)->backward.any_order;
}

static void attention_finish(const void *step, struct options *o)
{
    if (o->traced)
        usage_error("--trace: it shows how attention grows, and this step begins where that ends");
    if (o->out_path)
        usage_error("--out '%s': this step makes no O", o->out_path);
    if (o->lse_path && !o->o_path)
        usage_error("--lse '%s': this step makes none; where it is to be read, --o is needed, too", o->lse_path);
    refuse_input(o, "masked", "its keys are not all finite, which gradients need; a mask is --causal");
    refuse_input(o, "nan", "a gradient is asked for finite numbers alone");
    attention_finish_any(step, o);
    input_results_sizes(o);
}

/* Those of attention whose numbers, and whose gradients, every type holds. */
static const char *attention_small(const void *step, struct options *o, int index)
{
    struct options asked = *o;
    for (int i = 0;; i++) {
        *o = asked;
        const char *name = attention_kind.small(step, o, i);
        if (!name)
            return NULL;
        if (strcmp(o->input, "masked") && strcmp(o->input, "nan") && strcmp(o->input, "slopes") && index-- == 0)
            return name;
    }
}

static void attention_call(const struct run *r)
{
    const struct attention_backward *b = &((const struct attention_step *)r->step)->backward;
    const struct buffer *t = r->tensor;
    const float *lse = t[LSE].data, *dlse = t[DLSE].data;
    void *work = r->workspace.data;
    struct attention p = r->o->attention;
#define TENSORS \
    t[DQ].data, t[DK].data, t[DV].data, t[Q].data, t[K].data, t[V].data, t[O].data, lse, t[DO].data, dlse, p
    if (r->device->apart)
        CALL_FOR(r->o->dtype, b->gpu, TENSORS, work, NULL);
    else
        CALL_FOR(r->o->dtype, b->cpu, TENSORS);
}

static struct verdict attention_verify(const struct run *r)
{
    const struct options *o = r->o;
    const struct buffer *t = r->host;
    const struct backward_inputs in = { t[Q].data, t[K].data, t[V].data, t[O].data, t[LSE].data, t[DO].data, t[DLSE].data };
    return verify_attention_backward(t[DQ].data, t[DK].data, t[DV].data, &in, o->dtype, o->attention,
                                     attention_rounding(r->step, r->device, o->dtype), o->seed_given ? o->seed : fresh_seed());
}

static double attention_verify_bytes(const struct options *o, const struct device *device)
{
    return device->apart ? reference_gpu_bytes(o->attention, o->dtype)
                         : fmax(reference_backward_bytes(o->attention), verify_attention_bytes(o->attention));
}

static void attention_write(const struct run *r)
{
    const struct options *o = r->o;
    const struct attention *p = &o->attention;
    const int64_t of_queries[] = { p->batch, p->heads, p->seq_q, p->dim };
    const int64_t of_keys[] = { p->batch, p->kv_heads, p->seq_k, p->dim };
    const char *paths[] = { o->dq_path, o->dk_path, o->dv_path };
    char why[512];
    for (int i = 0; i < 3; i++)
        if (paths[i] && npy_write(paths[i], r->host[DQ + i].data, o->dtype, 4, i ? of_keys : of_queries, why, sizeof why))
            fatal("%s", why);
}

struct kind attention_backward_kind(void)
{
    struct kind k = attention_kind;
    k.inputs = DQ;
    k.outputs = 3;
    k.error = "worst error %.2g of the head's largest, allowed there %.2g";
    k.compulsory = "Q, K, V, O, dO and the gradients";
    k.products = 10;
    k.useful = attention_useful;
    k.finish = attention_finish;
    k.small = attention_small;
    k.rows = attention_groups;
    k.any_order = attention_any_order;
    k.inputs_new = attention_inputs;
    k.forward = forward;
    k.bytes = attention_tensor_bytes;
    k.call = attention_call;
    k.verify = attention_verify;
    k.verify_bytes = attention_verify_bytes;
    k.write = attention_write;
    return k;
}

int attention_backward_main(const struct attention_step *step, const struct attention_step *before, int argc, char **argv)
{
    struct kind k = attention_backward_kind();
    return program_main(&k, step, step->name, step->idea, before, before ? before->name : NULL, argc, argv);
}

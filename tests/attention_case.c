/* One run of an attention step, and the verdict on what comes out. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention_checks.h"
#include "bound.h"

static struct attention with_scale(struct attention p)
{
    if (p.scale == 0)
        p.scale = 1 / sqrtf((float)p.dim);
    return p;
}

static void add_outputs(struct attention_case *c)
{
    c->O = buffer_new(c->q.bytes, &cpu_device);
    c->lse = buffer_new((size_t)(c->p.batch * c->p.heads * c->p.seq_q) * sizeof(float), &cpu_device);
}

struct attention_case attention_case_new(struct attention p, enum dtype dtype)
{
    struct attention_case c = { .p = with_scale(p), .dtype = dtype };
    size_t row = (size_t)p.dim * dtype_bytes(dtype), keys = (size_t)(p.batch * p.kv_heads * p.seq_k);
    c.q = buffer_new((size_t)(p.batch * p.heads * p.seq_q) * row, &cpu_device);
    c.k = buffer_new(keys * row, &cpu_device);
    c.v = buffer_new(keys * row, &cpu_device);
    add_outputs(&c);
    return c;
}

struct attention_case attention_case_of(struct attention p, enum dtype dtype, const char *family)
{
    struct options o = {
        .is_attention = true, .attention = p, .scale_given = p.scale != 0, .dtype = dtype, .input = family, .seed = 1
    };
    options_finish(&o); /* sets the sizes, where the input has its own, and the scale */
    struct qkv t = input_qkv(&o);
    struct attention_case c = { .p = o.attention, .dtype = dtype, .q = t.q, .k = t.k, .v = t.v };
    add_outputs(&c);
    return c;
}

void attention_case_free(struct attention_case *c)
{
    struct buffer *all[] = { &c->q, &c->k, &c->v, &c->O, &c->lse };
    for (int i = 0; i < 5; i++)
        buffer_free(all[i]);
    answers_free(&c->answers);
}

const struct answers *attention_case_answers(struct attention_case *c, const struct attention_subject *s)
{
    struct attention_rounding how = s ? attention_subject_rounding(s) : c->how;
    if (c->answers.count && how.scores == c->how.scores && how.weights == c->how.weights)
        return &c->answers;
    answers_free(&c->answers);
    c->how = how;
    c->answers = reference_attention(c->q.data, c->k.data, c->v.data, c->dtype, c->p, how, NULL,
                                     c->p.batch * c->p.heads * c->p.seq_q, s && s->gpu);
    return &c->answers;
}

/* A number that changes when the inputs do. */
static uint64_t fingerprint(const struct attention_case *c)
{
    const struct buffer *inputs[] = { &c->q, &c->k, &c->v };
    uint64_t sum = 0;
    for (int i = 0; i < 3; i++)
        for (size_t at = 0, some = 8; at < inputs[i]->bytes; at += some) {
            uint64_t word = 0;
            some = inputs[i]->bytes - at < 8 ? inputs[i]->bytes - at : 8;
            memcpy(&word, (const char *)inputs[i]->data + at, some);
            sum = (sum ^ word) * 0x100000001b3u;
        }
    return sum;
}

static const char *run_on_gpu(const struct attention_subject *s, struct attention_case *c, bool want_lse)
{
    size_t bytes = attention_subject_workspace(s, c->p);
    struct buffer *host[] = { &c->q, &c->k, &c->v, &c->O, &c->lse }, device[6] = { { 0 } };
    enum { Q, K, V, O, LSE, WORKSPACE };
    for (int i = 0; i < 5; i++)
        device[i] = buffer_new(host[i]->bytes, &gpu_device);
    for (int i = Q; i <= V; i++)
        gpu_upload(device[i].data, host[i]->data, host[i]->bytes);
    if (bytes) {
        device[WORKSPACE] = buffer_new(bytes, &gpu_device);
        gpu_fill(device[WORKSPACE].data, 0, bytes);
    }

    attention_subject_run(s, device[O].data, want_lse ? device[LSE].data : NULL, device[Q].data, device[K].data, device[V].data,
                          c->p, device[WORKSPACE].data, NULL);
    const char *problem = gpu_error();
    if (problem && gpu_error()) /* it stays: the device is of no more use to this process */
        fatal("%s, %lld x %lld: %s; no test after it can run", attention_subject_name(s), (long long)c->p.seq_q,
              (long long)c->p.seq_k, problem);
    gpu_download(c->O.data, device[O].data, c->O.bytes);
    gpu_download(c->lse.data, device[LSE].data, c->lse.bytes);
    for (int i = 0; i < 6; i++)
        if (device[i].data && !problem && !buffer_guards_intact(&device[i]))
            problem = "memory outside the tensors was written";
    for (int i = Q; i <= V; i++) { /* so that the caller sees what has become of the inputs */
        gpu_download(host[i]->data, device[i].data, host[i]->bytes);
    }
    for (int i = 0; i < 6; i++)
        buffer_free(&device[i]);
    return problem;
}

const char *attention_case_run(const struct attention_subject *s, struct attention_case *c, bool want_lse)
{
    const char *problem = NULL;
    uint64_t before = fingerprint(c);
    buffer_poison(&c->O);
    buffer_poison(&c->lse);
    if (s->gpu)
        problem = run_on_gpu(s, c, want_lse);
    else
        attention_subject_run(s, c->O.data, want_lse ? c->lse.data : NULL, c->q.data, c->k.data, c->v.data, c->p, NULL, NULL);
    const struct buffer *all[] = { &c->q, &c->k, &c->v, &c->O, &c->lse };
    for (int i = 0; i < 5; i++)
        if (!problem && !buffer_guards_intact(all[i]))
            problem = "memory outside the tensors was written";
    if (!problem && fingerprint(c) != before)
        problem = "an input was written";
    return problem;
}

/* ---- FlashAttention's rule */

static double rounded(double x, enum dtype dtype)
{
    uint32_t word = 0;
    element_set(&word, dtype, 0, (float)x);
    return element(&word, dtype, 0);
}

/* The numbers of a tensor, each times `scale`, and then rounded to its type again: free() them. */
static double *numbers_of(const struct buffer *b, enum dtype dtype, double scale)
{
    int64_t count = (int64_t)(b->bytes / dtype_bytes(dtype));
    double *x = malloc((size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = scale == 1 ? element(b->data, dtype, i) : rounded(scale * element(b->data, dtype, i), dtype);
    return x;
}

/* Q, K and V of a case as doubles, and K scaled and rounded, as a framework has it. */
struct numbers {
    double *q, *k, *scaled_k, *v;
};

static struct numbers numbers_of_case(const struct attention_case *c)
{
    return (struct numbers){ numbers_of(&c->q, c->dtype, 1), numbers_of(&c->k, c->dtype, 1),
                             numbers_of(&c->k, c->dtype, c->p.scale), numbers_of(&c->v, c->dtype, 1) };
}

static void numbers_free(struct numbers *x)
{
    free(x->q), free(x->k), free(x->scaled_k), free(x->v);
}

/* Where the keys and values of a row of Q begin. */
static int64_t kv_start(struct attention p, int64_t row)
{
    return attention_kv_head(p, row / p.seq_q) * p.seq_k * p.dim;
}

/*
 * One row, as a framework computes it op by op: K scaled, the scores, their softmax and the output, each rounded to the type.
 * scratch: (dim + seq_k).
 */
static void same_precision_row(struct attention_case *c, const struct numbers *x, double *scratch, int64_t row)
{
    const struct attention p = c->p;
    int64_t visible = attention_visible(p, row % p.seq_q);
    const double *q = x->q + row * p.dim, *k = x->scaled_k + kv_start(p, row), *v = x->v + kv_start(p, row);
    double *o = scratch, *s = scratch + p.dim, max = -INFINITY, sum = 0;
    for (int64_t key = 0; key < visible; key++) {
        double dot = 0;
        for (int64_t i = 0; i < p.dim; i++)
            dot += q[i] * k[key * p.dim + i];
        s[key] = rounded(dot, c->dtype);
        max = fmax(max, s[key]);
    }
    for (int64_t key = 0; key < visible; key++)
        sum += s[key] = exp(s[key] - max);
    memset(o, 0, (size_t)p.dim * sizeof *o);
    for (int64_t key = 0; key < visible; key++) {
        double weight = rounded(s[key] / sum, c->dtype);
        for (int64_t i = 0; i < p.dim; i++)
            o[i] += weight * v[key * p.dim + i];
    }
    for (int64_t i = 0; i < p.dim; i++)
        element_set(c->O.data, c->dtype, row * p.dim + i, (float)o[i]);
}

static void same_precision_all(struct attention_case *c, const struct numbers *x)
{
#pragma omp parallel
    {
        double *scratch = malloc((size_t)(c->p.dim + c->p.seq_k) * sizeof *scratch);
#pragma omp for
        for (int64_t row = 0; row < c->p.batch * c->p.heads * c->p.seq_q; row++)
            same_precision_row(c, x, scratch, row);
        free(scratch);
    }
}

void same_precision_attention(struct attention_case *c)
{
    struct numbers x = numbers_of_case(c);
    same_precision_all(c, &x);
    numbers_free(&x);
}

/* How far O is from what it must be, where that is largest; and the
   largest number that it must be. A NaN, on either side, is none. */
static double largest_error(const struct buffer *O, const struct answers *a, double *size)
{
    double error = 0, largest = 0;
#pragma omp parallel for reduction(max : error, largest)
    for (int64_t i = 0; i < a->count * a->p.dim; i++) {
        error = fmax(error, fabs(element(O->data, a->dtype, i) - a->want[i])); /* fmax drops a NaN */
        largest = fmax(largest, fabs(a->want[i]));
    }
    *size = largest;
    return error;
}

bool flash_attention_rule(struct attention_case *c, double *error, double *allowed)
{
    const struct answers *a = attention_case_answers(c, NULL);
    double size;
    if (c->rule == 0) {
        struct numbers x = numbers_of_case(c);
        struct attention_case plain = { .p = c->p, .dtype = c->dtype, .O = buffer_new(c->O.bytes, &cpu_device) };
        same_precision_all(&plain, &x);
        c->rule = 2 * largest_error(&plain.O, a, &size) + unit16_of(c->dtype) * size;
        buffer_free(&plain.O);
        numbers_free(&x);
    }
    *error = largest_error(&c->O, a, &size);
    *allowed = c->rule;
    return *error <= *allowed;
}

struct outcome attention_case_verdict(const struct attention_subject *s, struct attention_case *c)
{
    struct verdict v = verify_answers(c->O.data, c->lse.data, attention_case_answers(c, s));
    /* Scores in 16 bits leave some rows in doubt, which FlashAttention's rule judges. */
    bool may_doubt = c->in_doubt || attention_subject_rounding(s).scores;
    struct outcome o = { v.pass || (v.wrong == 0 && may_doubt), v.error, v.tolerance, "" };
    snprintf(o.what, sizeof o.what, "%s", v.what);
    double error, allowed;
    if (o.pass && c->dtype != FP32 && !flash_attention_rule(c, &error, &allowed)) {
        o.pass = false;
        snprintf(o.what, sizeof o.what, "FlashAttention's rule: off by %.3g, and %.3g is allowed", error, allowed);
    }
    return o;
}

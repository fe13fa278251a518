/* One run of an attention step, and the verdict on what comes out. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention_checks.h"

static struct attention with_scale(struct attention p)
{
    if (p.scale == 0)
        p.scale = 1 / sqrtf((float)p.dim);
    return p;
}

static void add_outputs(struct attention_case *c)
{
    c->O = buffer_new(c->q.bytes, false);
    c->lse = buffer_new((size_t)(c->p.batch * c->p.heads * c->p.seq_q) * sizeof(float), false);
}

struct attention_case attention_case_new(struct attention p, enum dtype dtype)
{
    struct attention_case c = { .p = with_scale(p), .dtype = dtype };
    size_t row = (size_t)p.dim * dtype_bytes(dtype), keys = (size_t)(p.batch * p.kv_heads * p.seq_k);
    c.q = buffer_new((size_t)(p.batch * p.heads * p.seq_q) * row, false);
    c.k = buffer_new(keys * row, false);
    c.v = buffer_new(keys * row, false);
    add_outputs(&c);
    return c;
}

struct attention_case attention_case_of(struct attention p, enum dtype dtype, const char *family)
{
    struct options o = { .is_attention = true, .attention = p, .dtype = dtype, .input = family, .seed = 1 };
    struct qkv t = input_qkv(&o); /* sets the sizes, where the input has its own */
    o.attention.scale = p.scale;
    struct attention_case c = { .p = with_scale(o.attention), .dtype = dtype, .q = t.q, .k = t.k, .v = t.v };
    add_outputs(&c);
    return c;
}

void attention_case_free(struct attention_case *c)
{
    struct buffer *all[] = { &c->q, &c->k, &c->v, &c->O, &c->lse };
    for (int i = 0; i < 5; i++)
        buffer_free(all[i]);
}

/* A number that changes when the inputs do. */
static uint64_t fingerprint(const struct attention_case *c)
{
    const struct buffer *inputs[] = { &c->q, &c->k, &c->v };
    uint64_t sum = 0;
    for (int i = 0; i < 3; i++)
        for (size_t at = 0; at < inputs[i]->bytes; at++)
            sum = (sum ^ ((const unsigned char *)inputs[i]->data)[at]) * 0x100000001b3u;
    return sum;
}

static const char *run_on_gpu(const struct attention_subject *s, struct attention_case *c, bool want_lse)
{
    size_t bytes = s->step->workspace ? s->step->workspace(c->p, c->dtype) : 0;
    struct buffer *host[] = { &c->q, &c->k, &c->v, &c->O, &c->lse }, device[6] = { { 0 } };
    enum { Q, K, V, O, LSE, WORKSPACE };
    for (int i = 0; i < 5; i++)
        device[i] = buffer_new(host[i]->bytes, true);
    for (int i = Q; i <= V; i++)
        gpu_upload(device[i].data, host[i]->data, host[i]->bytes);
    if (bytes) /* it may hold anything: this one is all NaN */
        device[WORKSPACE] = buffer_new(bytes, true);

    attention_subject_run(s, device[O].data, want_lse ? device[LSE].data : NULL, device[Q].data, device[K].data, device[V].data,
                          c->p, device[WORKSPACE].data);
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
        attention_subject_run(s, c->O.data, want_lse ? c->lse.data : NULL, c->q.data, c->k.data, c->v.data, c->p, NULL);
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

/* The key-value head, counted over all batches, that this row of Q attends to. */
static int64_t kv_head_of(struct attention p, int64_t row)
{
    int64_t head = row / p.seq_q;
    return head / p.heads * p.kv_heads + head % p.heads / (p.heads / p.kv_heads);
}

/* One row, as a framework computes it op by op: K scaled, the scores, their softmax and the output, each rounded. s: (seq_k). */
static void same_precision_row(struct attention_case *c, double *s, int64_t row)
{
    const struct attention p = c->p;
    int64_t visible = attention_visible(p, row % p.seq_q), kv_at = kv_head_of(p, row) * p.seq_k * p.dim;
    double max = -INFINITY, sum = 0;
    for (int64_t key = 0; key < visible; key++) {
        double dot = 0;
        for (int64_t i = 0; i < p.dim; i++)
            dot += element(c->q.data, c->dtype, row * p.dim + i) *
                   rounded(p.scale * element(c->k.data, c->dtype, kv_at + key * p.dim + i), c->dtype);
        s[key] = rounded(dot, c->dtype);
        max = fmax(max, s[key]);
    }
    for (int64_t key = 0; key < visible; key++)
        sum += s[key] = exp(s[key] - max);
    for (int64_t i = 0; i < p.dim; i++) {
        double o = 0;
        for (int64_t key = 0; key < visible; key++)
            o += rounded(s[key] / sum, c->dtype) * element(c->v.data, c->dtype, kv_at + key * p.dim + i);
        element_set(c->O.data, c->dtype, row * p.dim + i, (float)o);
    }
}

void same_precision_attention(struct attention_case *c)
{
#pragma omp parallel
    {
        double *s = malloc((size_t)c->p.seq_k * sizeof *s);
#pragma omp for
        for (int64_t row = 0; row < c->p.batch * c->p.heads * c->p.seq_q; row++)
            same_precision_row(c, s, row);
        free(s);
    }
}

/* The largest |O - exact| of a row, and the largest |exact|: *size. scratch: (2 dim + 2 seq_k). A row that has NaN has no error. */
static double row_error(const struct attention_case *c, double *scratch, int64_t row, double *size)
{
    const struct attention p = c->p;
    size_t bytes = dtype_bytes(c->dtype);
    int64_t kv_at = kv_head_of(p, row) * p.seq_k * p.dim;
    struct attention_row one = {
        (char *)c->q.data + (size_t)(row * p.dim) * bytes,
        (char *)c->k.data + (size_t)kv_at * bytes,
        (char *)c->v.data + (size_t)kv_at * bytes,
        c->dtype,
        attention_visible(p, row % p.seq_q),
        p.dim,
        p.scale,
    };
    reference_attention_row(scratch, scratch + p.dim, scratch + 2 * p.dim, one, (struct attention_rounding){ 0 });
    double error = 0;
    for (int64_t i = 0; i < p.dim; i++) {
        error = fmax(error, fabs(element(c->O.data, c->dtype, row * p.dim + i) - scratch[i])); /* fmax drops a NaN */
        *size = fmax(*size, fabs(scratch[i]));
    }
    return error;
}

static double largest_error(const struct attention_case *c, double *size)
{
    double error = 0, largest = 0;
#pragma omp parallel reduction(max : error, largest)
    {
        double *scratch = malloc((size_t)(2 * c->p.dim + 2 * c->p.seq_k) * sizeof *scratch);
#pragma omp for
        for (int64_t row = 0; row < c->p.batch * c->p.heads * c->p.seq_q; row++)
            error = fmax(error, row_error(c, scratch, row, &largest));
        free(scratch);
    }
    *size = largest;
    return error;
}

bool flash_attention_rule(const struct attention_case *c, double *error, double *allowed)
{
    struct attention_case plain = attention_case_new(c->p, c->dtype);
    memcpy(plain.q.data, c->q.data, c->q.bytes);
    memcpy(plain.k.data, c->k.data, c->k.bytes);
    memcpy(plain.v.data, c->v.data, c->v.bytes);
    same_precision_attention(&plain);
    double size;
    *error = largest_error(c, &size);
    *allowed = 2 * largest_error(&plain, &size) + (c->dtype == FP16 ? 0x1p-11 : 0x1p-8) * size;
    attention_case_free(&plain);
    return *error <= *allowed;
}

struct outcome attention_case_verdict(const struct attention_subject *s, const struct attention_case *c)
{
    struct verdict v = verify_attention(c->O.data, c->lse.data, c->q.data, c->k.data, c->v.data, c->dtype, c->p,
                                        attention_subject_rounding(s), 1);
    struct outcome o = { v.pass, v.error, v.tolerance, "" };
    snprintf(o.what, sizeof o.what, "%s", v.what);
    double error, allowed;
    if (v.pass && c->dtype != FP32 && !flash_attention_rule(c, &error, &allowed)) {
        o.pass = false;
        snprintf(o.what, sizeof o.what, "FlashAttention's rule: off by %.3g, and %.3g is allowed", error, allowed);
    }
    return o;
}

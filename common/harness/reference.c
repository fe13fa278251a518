/*
 * Softmax and attention in double, straight from the definition: the maximum, the sum of exp(x - max), the quotient. Shares
 * nothing with the steps, merge rule included: a mistake there must not be repeated here.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bound.h"
#include "harness.h"
#include "half.h"

double element(const void *x, enum dtype dtype, int64_t at)
{
    switch (dtype) {
    case FP16: return fp16_to_float(((const fp16 *)x)[at]);
    case BF16: return bf16_to_float(((const bf16 *)x)[at]);
    case FP32: return ((const float *)x)[at];
    default:   return ((const double *)x)[at];
    }
}

void elements(double *out, const void *x, enum dtype dtype, int64_t at, int64_t count)
{
    switch (dtype) { /* one loop a type, so that it vectorises */
    case FP16:
        for (int64_t i = 0; i < count; i++)
            out[i] = fp16_to_float(((const fp16 *)x)[at + i]);
        break;
    case BF16:
        for (int64_t i = 0; i < count; i++)
            out[i] = bf16_to_float(((const bf16 *)x)[at + i]);
        break;
    case FP32:
        for (int64_t i = 0; i < count; i++)
            out[i] = ((const float *)x)[at + i];
        break;
    default: memcpy(out, (const double *)x + at, (size_t)count * sizeof *out);
    }
}

struct row_facts reference_softmax_row(double *want, const void *x, enum dtype dtype, int64_t cols)
{
    double max = -INFINITY;
    bool nan = false;
    elements(want, x, dtype, 0, cols);
    for (int64_t col = 0; col < cols; col++) {
        nan |= isnan(want[col]);
        max = want[col] > max ? want[col] : max;
    }
    if (nan || isinf(max)) { /* (x - max) would be inf - inf */
        for (int64_t col = 0; col < cols; col++)
            want[col] = NAN;
        return (struct row_facts){ max, NAN };
    }

    double sum = 0, weighted = 0;
    for (int64_t col = 0; col < cols; col++) {
        double below = max - want[col], e = exp(-below);
        want[col] = e;
        sum += e;
        weighted += e > 0 ? e * below : 0;
    }
    for (int64_t col = 0; col < cols; col++)
        want[col] /= sum;
    return (struct row_facts){ max, weighted / sum };
}

struct softmax_answers reference_softmax(const void *x, enum dtype dtype, int64_t rows, int64_t cols)
{
    struct softmax_answers a = { malloc((size_t)(rows * cols) * sizeof *a.want), malloc((size_t)rows * sizeof *a.facts) };
    if (!a.want || !a.facts)
        fatal("not enough CPU memory: %.2f GiB needed to verify", (double)(rows * cols) * sizeof *a.want / (1 << 30));
#pragma omp parallel for schedule(guided)
    for (int64_t row = 0; row < rows; row++)
        a.facts[row] =
            reference_softmax_row(a.want + row * cols, (const char *)x + (size_t)(row * cols) * dtype_bytes(dtype), dtype, cols);
    return a;
}

void softmax_answers_free(struct softmax_answers *a)
{
    free(a->want), free(a->facts);
    *a = (struct softmax_answers){ 0 };
}

/* ---- attention */

#define LANES 32 /* numbers that are worked on side by side: keys of a score, coordinates of an output */

/* The keys and values of a head, in double, filled up with zeros to whole groups of LANES. */
struct head {
    int64_t keys, width; /* of K's rows, and of V's: multiples of LANES */
    double *K;           /* (dim, keys): transposed, so that the scores of neighbours are computed side by side */
    double *V;           /* (keys, width) */
};

static double *doubles(int64_t count)
{
    double *x = calloc((size_t)count, sizeof *x);
    if (!x)
        fatal("not enough CPU memory: %.2f GiB needed to verify", (double)count * sizeof *x / (1 << 30));
    return x;
}

static int64_t whole_lanes(int64_t count)
{
    return (count + LANES - 1) / LANES * LANES;
}

static struct head head_new(struct attention p)
{
    struct head h = { whole_lanes(p.seq_k), whole_lanes(p.dim), NULL, NULL };
    h.K = doubles(p.dim * h.keys);
    h.V = doubles(p.seq_k * h.width);
    return h;
}

static void head_free(struct head *h)
{
    free(h->K);
    free(h->V);
}

/* The kv-th head of K and V. */
static void head_fill(struct head *h, const void *K, const void *V, enum dtype dtype, struct attention p, int64_t kv)
{
#pragma omp parallel for
    for (int64_t key = 0; key < p.seq_k; key++) {
        double row[p.dim];
        elements(row, K, dtype, (kv * p.seq_k + key) * p.dim, p.dim);
        for (int64_t i = 0; i < p.dim; i++)
            h->K[i * h->keys + key] = row[i];
        elements(h->V + key * h->width, V, dtype, (kv * p.seq_k + key) * p.dim, p.dim);
    }
}

/* dot and size, of LANES keys: the sums of q k and of |q k|. */
static void products(double *dot, double *size, const double *q, const double *K, int64_t stride, int64_t dim)
{
    double d[LANES] = { 0 }, s[LANES] = { 0 };
    for (int64_t i = 0; i < dim; i++)
#pragma omp simd
        for (int l = 0; l < LANES; l++) {
            double product = q[i] * K[i * stride + l];
            d[l] += product;
            s[l] += fabs(product);
        }
    memcpy(dot, d, sizeof d);
    memcpy(size, s, sizeof s);
}

/* What a row needs on the way. */
struct row_scratch {
    double *share;   /* (keys) the scores; then the weights; then their shares in the sum */
    double *moved;   /* (keys) how far each of those may be off */
    double *q;       /* (dim) */
    struct sums *of; /* (width) */
};

/* The scores of all visible keys, and their doubts. Returns the largest score; a NaN if there is one. */
static double score_row(struct row_scratch *r, const struct head *h, int64_t visible, struct attention p, double unit16,
                        enum doubt *doubt)
{
    double max = -INFINITY, dot[LANES], size[LANES];
    for (int64_t first = 0; first < visible; first += LANES) {
        products(dot, size, r->q, h->K + first, h->keys, p.dim);
        for (int64_t l = 0; l < LANES && first + l < visible; l++) {
            struct score s = score_of(dot[l], size[l], p.scale, p.dim, unit16);
            r->share[first + l] = s.value;
            r->moved[first + l] = s.doubt;
            if (!(s.value <= max)) /* a NaN gets through, and stays */
                max = isnan(max) ? max : s.value;
            if (s.overflow)
                *doubt = OVERFLOW_OF_S;
        }
    }
    return max;
}

/* of[].want and plain: the sums of share * v, and of v. */
static void add_values(struct sums *of, const double *share, const double *V, int64_t width, int64_t visible)
{
    for (int64_t first = 0; first < width; first += LANES) {
        double want[LANES] = { 0 }, plain[LANES] = { 0 };
        for (int64_t key = 0; key < visible; key++)
#pragma omp simd
            for (int l = 0; l < LANES; l++) {
                double v = V[key * width + first + l];
                want[l] += share[key] * v;
                plain[l] += v;
            }
        for (int l = 0; l < LANES; l++)
            of[first + l] = (struct sums){ .want = want[l], .plain = plain[l] };
    }
}

/* The other sums of of[], for which `want` must be known. */
static void add_doubts(struct sums *of, const struct row_scratch *r, const double *V, int64_t width, int64_t visible,
                       struct loss loss)
{
    for (int64_t first = 0; first < width; first += LANES) {
        double want[LANES], moved[LANES] = { 0 }, furthest[LANES] = { 0 }, rounded[LANES] = { 0 };
        for (int l = 0; l < LANES; l++)
            want[l] = of[first + l].want;
        for (int64_t key = 0; key < visible; key++) {
            double its_share = loss.relative * r->share[key] + loss.absolute, its_doubt = r->moved[key];
#pragma omp simd
            for (int l = 0; l < LANES; l++) {
                double v = V[key * width + first + l], away = fabs(v - want[l]);
                moved[l] += its_doubt * away;
                rounded[l] += its_share * fabs(v);
                furthest[l] = away > furthest[l] ? away : furthest[l];
            }
        }
        for (int l = 0; l < LANES; l++)
            of[first + l].moved = moved[l], of[first + l].furthest = furthest[l], of[first + l].rounded = rounded[l];
    }
}

static void nothing_to_attend_to(double *want, double *bound, int64_t dim, struct lse *lse)
{
    for (int64_t i = 0; i < dim; i++)
        want[i] = bound[i] = 0;
    *lse = (struct lse){ -INFINITY, 0 };
}

/* One row of the answers: its query is in r->q. */
static void attend(struct answers *a, int64_t at, struct row_scratch *r, const struct head *h, struct attention_rounding how)
{
    struct attention p = a->p;
    int64_t visible = attention_visible(p, a->rows[at] % p.seq_q);
    double *want = a->want + at * p.dim, *bound = a->bound + at * p.dim, firm[p.dim], mean[p.dim], sum = 0, sum_doubt = 0,
           furthest = 0;
    struct lse *lse = &a->lse[at];
    a->doubt[at] = NO_DOUBT;
    double max = score_row(r, h, visible, p, how.scores ? unit16_of(a->dtype) : 0, &a->doubt[at]);
    if (max == -INFINITY) {
        nothing_to_attend_to(want, bound, p.dim, lse);
        return;
    }
    for (int64_t key = 0; key < visible; key++) {
        double below = max - r->share[key], weight = exp(-below); /* a maximum of inf: inf - inf, and all is NaN */
        double d = exponent_doubt(below, r->moved[key]);
        furthest = fmax(furthest, d);
        r->moved[key] = weight_doubt(weight, below, d);
        r->share[key] = weight;
        sum += weight;
        sum_doubt += r->moved[key];
    }
    sum_doubt /= sum;
    double moved = 0;
    for (int64_t key = 0; key < visible; key++) {
        r->share[key] /= sum;
        r->moved[key] = share_doubt(r->share[key], r->moved[key] / sum, sum_doubt);
        moved += r->moved[key];
    }
    struct loss loss = loss_of(visible, sum, a->dtype, how.weights, how.parts);
    add_values(r->of, r->share, h->V, h->width, visible);
    add_doubts(r->of, r, h->V, h->width, visible, loss);
    for (int64_t i = 0; i < p.dim; i++) {
        want[i] = r->of[i].want;
        bound[i] = element_bound(r->of[i], loss, moved);
        firm[i] = firm_bound(r->of[i], loss);
        mean[i] = r->of[i].plain / (double)visible;
        if (!isfinite(want[i]))
            settle_infinite(&want[i], &bound[i], r->share, r->moved, h->V + i, h->width, visible, loss.absolute);
    }
    *lse = (struct lse){ max + log(sum), lse_bound(max + log(sum), sum_doubt, furthest, visible) };
    if (a->doubt[at] == NO_DOUBT && is_blind(want, bound, firm, mean, p.dim))
        a->doubt[at] = BLIND;
}

static void reference_attention_cpu(struct answers *a, const void *Q, const void *K, const void *V, struct attention_rounding how)
{
    struct attention p = a->p;
    struct head h = head_new(p);
    for (int64_t first = 0, end; first < a->count; first = end) {
        int64_t kv = attention_kv_head(p, a->rows[first] / p.seq_q);
        for (end = first; end < a->count && attention_kv_head(p, a->rows[end] / p.seq_q) == kv;)
            end++;
        head_fill(&h, K, V, a->dtype, p, kv);
#pragma omp parallel
        {
            struct row_scratch r = { doubles(h.keys), doubles(h.keys), doubles(p.dim), malloc((size_t)h.width * sizeof *r.of) };
#pragma omp for schedule(dynamic)
            for (int64_t at = first; at < end; at++) {
                elements(r.q, Q, a->dtype, a->rows[at] * p.dim, p.dim);
                attend(a, at, &r, &h, how);
            }
            free(r.share), free(r.moved), free(r.q), free(r.of);
        }
    }
    head_free(&h);
}

struct answers reference_attention(const void *Q, const void *K, const void *V, enum dtype dtype, struct attention p,
                                   struct attention_rounding how, const int64_t *rows, int64_t count, bool gpu)
{
    struct answers a = { .p = p, .dtype = dtype, .count = count, .rows = malloc((size_t)(count + 1) * sizeof *a.rows) };
    a.want = doubles(count * p.dim + 1);
    a.bound = doubles(count * p.dim + 1);
    a.lse = malloc((size_t)(count + 1) * sizeof *a.lse);
    a.doubt = malloc((size_t)(count + 1) * sizeof *a.doubt);
    a.largest = doubles(p.batch * p.kv_heads * p.dim + 1);
    if (!a.lse || !a.doubt || !a.rows)
        fatal("not enough CPU memory to verify %lld rows", (long long)count);
    for (int64_t at = 0; at < count; at++)
        a.rows[at] = rows ? rows[at] : at;
#pragma omp parallel for
    for (int64_t kv = 0; kv < p.batch * p.kv_heads; kv++) {
        double v[p.dim], *largest = a.largest + kv * p.dim;
        for (int64_t key = 0; key < p.seq_k; key++) {
            elements(v, V, dtype, (kv * p.seq_k + key) * p.dim, p.dim);
            for (int64_t i = 0; i < p.dim; i++)
                largest[i] = isfinite(v[i]) && fabs(v[i]) > largest[i] ? fabs(v[i]) : largest[i];
        }
    }
    if (gpu && p.dim <= REFERENCE_GPU_DIM)
        reference_attention_gpu(&a, Q, K, V, how);
    else
        reference_attention_cpu(&a, Q, K, V, how);
    return a;
}

void answers_free(struct answers *a)
{
    free(a->rows), free(a->want), free(a->bound), free(a->lse), free(a->doubt), free(a->largest);
    *a = (struct answers){ 0 };
}

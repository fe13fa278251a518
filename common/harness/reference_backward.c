/*
 * The gradients of softmax and attention in double, straight from the formulas: scores, weights, and the five products, with no
 * tile, no lse and no O of anybody else: by how much those are off that a step is given, is a part of the bounds, and no more. A
 * test holds the gradients to finite differences. docs/numerics.md derives the bounds.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bound.h"
#include "harness.h"

#define QUERIES 64        /* whose rows of P and dS are in memory at a time */
#define DOUBTFUL 0.25     /* weights that are off by so much of their sum are not known */

double reference_softmax_backward_row(double *want, const void *y, const void *dy, enum dtype dtype, int64_t cols, double *size)
{
    double sum = 0;
    *size = 0;
    for (int64_t col = 0; col < cols; col++) {
        double product = element(y, dtype, col) * element(dy, dtype, col);
        sum += product;
        *size += fabs(product);
    }
    for (int64_t col = 0; col < cols; col++)
        want[col] = element(y, dtype, col) * (element(dy, dtype, col) - sum);
    return sum;
}

/* ---- attention */

static double *doubles(int64_t count)
{
    double *x = calloc((size_t)count + 1, sizeof *x);
    if (!x)
        fatal("not enough CPU memory: %.2f GiB needed to verify", (double)count * sizeof *x / (1 << 30));
    return x;
}

static double *doubles_of(const void *x, enum dtype dtype, int64_t at, int64_t count)
{
    double *out = doubles(count);
    elements(out, x, dtype, at, count);
    return out;
}

/* One head of Q with its head of K and V, in double; and rows of P and dS, with how far a step's may be from each. */
struct head {
    double *Q, *K, *V, *O, *dO;
    const float *lse, *dlse;  /* (seq_q); dlse may be NULL */
    double *P, *P_doubt, *dS, *dS_doubt; /* (QUERIES, seq_k) */
};

/* sum a b, and of |a b| in *size. */
static double dot(const double *a, const double *b, int64_t count, double *size)
{
    double sum = 0, absolute = 0;
#pragma omp simd reduction(+ : sum, absolute)
    for (int64_t i = 0; i < count; i++) {
        sum += a[i] * b[i];
        absolute += fabs(a[i] * b[i]);
    }
    *size = absolute;
    return sum;
}

/* sum += weight x, bound += doubt |x|. */
static void add(double *restrict sum, double *restrict bound, const double *x, double weight, double doubt, int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        sum[i] += weight * x[i];
        bound[i] += doubt * fabs(x[i]);
    }
}

/* The additions of a sum of so many, relative to each addend. */
static double additions(int64_t count)
{
    return 2 * ((double)count + 32) * UNIT;
}

/*
 * P, with its doubts: exp(s - max) over the sum here, exp(s - lse) in a step, with the lse that it is given, in fp32. Returns the
 * sum of the doubts.
 */
static double weigh(double *P, double *doubt, const double *q, const double *K, double given, int64_t keys, struct attention p,
                    double tiny)
{
    double max = -INFINITY, sum = 0, doubts = 0;
    for (int64_t key = 0; key < keys; key++) {
        double size, product = dot(q, K + key * p.dim, p.dim, &size);
        struct score s = score_of(product, size, p.scale, p.dim, 0);
        P[key] = s.value;
        doubt[key] = s.overflow ? INFINITY : s.doubt;
        max = fmax(max, s.value);
    }
    for (int64_t key = 0; key < keys; key++)
        sum += exp(P[key] - max);
    double lse = max + log(sum);
    for (int64_t key = 0; key < keys; key++) {
        double s = P[key], below = lse - s;
        double d = doubt[key] + fabs(given - lse) + (3 * (fabs(s) + below) + 2 * fabs(lse) + 4) * UNIT;
        P[key] = exp(-below);
        doubt[key] = weight_doubt(P[key], below, d) + tiny;
        doubts += doubt[key];
    }
    return doubts;
}

/*
 * A query's row of dS = P (dP - D + dlse), with its doubts, where P's are known. dP = dO V^T, D = sum P dP. unit16, tiny: of the
 * rounding of P before it is used here; 0: there is none.
 */
static void differentiate(struct head *h, int64_t query, int64_t row, int64_t keys, struct attention p, double unit16,
                          double tiny)
{
    double *P = h->P + row * p.seq_k, *P_doubt = h->P_doubt + row * p.seq_k, *dS = h->dS + row * p.seq_k,
           *doubt = h->dS_doubt + row * p.seq_k, *dO = h->dO + query * p.dim;
    double D = 0, sizes = 0, moved = 0, size_of_D, dlse = h->dlse ? (double)h->dlse[query] : 0;
    for (int64_t key = 0; key < keys; key++) {
        double size;
        dS[key] = dot(dO, h->V + key * p.dim, p.dim, &size);
        doubt[key] = 2 * ((double)p.dim + 4) * UNIT * size;
        D += P[key] * dS[key];
        sizes += P[key] * fabs(dS[key]);
        moved += P_doubt[key] * (fabs(dS[key]) + doubt[key]) + P[key] * doubt[key];
    }
    /* D is the sum over the keys, or that of dO O, with the O that is given: whichever may be worse */
    double of_output = dot(dO, h->O + query * p.dim, p.dim, &size_of_D);
    double D_doubt = fmax(moved + additions(keys) * sizes, fabs(of_output - D) + additions(p.dim) * size_of_D);
    for (int64_t key = 0; key < keys; key++) {
        double x = dS[key] - D + dlse, sum = fabs(dS[key]) + fabs(D) + fabs(dlse), off = doubt[key] + D_doubt + 2 * UNIT * sum;
        double of_P = (1 + unit16) * P_doubt[key] + unit16 * P[key] + tiny;
        dS[key] = P[key] * x;
        doubt[key] = of_P * (fabs(x) + off) + P[key] * (off + 2 * UNIT * fabs(x));
    }
}

/* What is rounded to 16 bits before it is multiplied. */
static void round_row(double *x, double *doubt, int64_t keys, double unit16, double tiny)
{
    for (int64_t key = 0; key < keys; key++)
        doubt[key] = (1 + unit16) * doubt[key] + unit16 * fabs(x[key]) + tiny;
}

/* Rows first ... last - 1 of a head's dQ; and P and dS, of which dK and dV are made. */
static void rows_of_queries(struct head *h, double *dQ, double *bound, int64_t first, int64_t last, struct attention p,
                            enum dtype dtype, struct attention_rounding how, int64_t *doubtful)
{
    double unit16 = how.weights ? unit16_of(dtype) : 0, tiny = how.weights && dtype == FP16 ? 0x1p-25 : 0;
    int64_t unknown = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : unknown)
    for (int64_t query = first; query < last; query++) {
        int64_t keys = attention_visible(p, query), row = query - first, at = row * p.seq_k;
        double doubts = weigh(h->P + at, h->P_doubt + at, h->Q + query * p.dim, h->K, (double)h->lse[query], keys, p, 0x1p-126);
        unknown += !(doubts <= DOUBTFUL);
        differentiate(h, query, row, keys, p, how.early ? unit16 : 0, how.early ? tiny : 0);
        round_row(h->P + at, h->P_doubt + at, keys, unit16, tiny);
        round_row(h->dS + at, h->dS_doubt + at, keys, unit16, tiny);
        for (int64_t key = 0; key < keys; key++)
            add(dQ + query * p.dim, bound + query * p.dim, h->K + key * p.dim, p.scale * h->dS[at + key],
                fabs(p.scale) * (h->dS_doubt[at + key] + additions(keys) * fabs(h->dS[at + key])), p.dim);
    }
    *doubtful += unknown;
}

/* What these queries add to dK and dV. */
static void add_to_keys(struct gradients *g, const struct head *h, int64_t first, int64_t last, struct attention p)
{
    double sums = additions(p.seq_q * attention_group(p)), size = fabs(p.scale);
#pragma omp parallel for
    for (int64_t key = 0; key < p.seq_k; key++)
        for (int64_t query = first; query < last; query++) {
            if (key >= attention_visible(p, query))
                continue;
            int64_t at = (query - first) * p.seq_k + key, to = key * p.dim;
            add(g->dK + to, g->dK_bound + to, h->Q + query * p.dim, p.scale * h->dS[at],
                size * (h->dS_doubt[at] + sums * fabs(h->dS[at])), p.dim);
            add(g->dV + to, g->dV_bound + to, h->dO + query * p.dim, h->P[at], h->P_doubt[at] + sums * h->P[at], p.dim);
        }
}

/* A result is rounded to its type. */
static void round_result(const double *x, double *bound, int64_t count, enum dtype dtype)
{
    double unit = unit16_of(dtype), tiny = 0x1p-126 + (dtype == FP16 ? 0x1p-25 : 0);
    for (int64_t i = 0; i < count; i++)
        bound[i] = bound[i] == 0 && x[i] == 0 ? 0 : (1 + unit) * bound[i] + unit * fabs(x[i]) + tiny;
}

struct gradients reference_attention_backward(const struct backward_inputs *in, enum dtype dtype, struct attention p,
                                              struct attention_rounding how, int64_t kv)
{
    int64_t group = attention_group(p), queries = p.seq_q * p.dim, keys = p.seq_k * p.dim;
    struct gradients g = { doubles(group * queries), doubles(group * queries), doubles(keys), doubles(keys), doubles(keys),
                           doubles(keys), 0 };
    struct head h = { .K = doubles_of(in->K, dtype, kv * keys, keys), .V = doubles_of(in->V, dtype, kv * keys, keys),
                      .P = doubles(QUERIES * p.seq_k), .P_doubt = doubles(QUERIES * p.seq_k), .dS = doubles(QUERIES * p.seq_k),
                      .dS_doubt = doubles(QUERIES * p.seq_k) };
    for (int64_t i = 0; i < group; i++) {
        int64_t head = kv * group + i;
        h.Q = doubles_of(in->Q, dtype, head * queries, queries);
        h.O = doubles_of(in->O, dtype, head * queries, queries);
        h.dO = doubles_of(in->dO, dtype, head * queries, queries);
        h.lse = in->lse + head * p.seq_q;
        h.dlse = in->dlse ? in->dlse + head * p.seq_q : NULL;
        for (int64_t first = 0; first < p.seq_q; first += QUERIES) {
            int64_t last = first + QUERIES < p.seq_q ? first + QUERIES : p.seq_q;
            rows_of_queries(&h, g.dQ + i * queries, g.dQ_bound + i * queries, first, last, p, dtype, how, &g.doubtful);
            add_to_keys(&g, &h, first, last, p);
        }
        free(h.Q), free(h.O), free(h.dO);
    }
    free(h.K), free(h.V), free(h.P), free(h.P_doubt), free(h.dS), free(h.dS_doubt);
    round_result(g.dQ, g.dQ_bound, group * queries, dtype);
    round_result(g.dK, g.dK_bound, keys, dtype);
    round_result(g.dV, g.dV_bound, keys, dtype);
    return g;
}

void gradients_free(struct gradients *g)
{
    free(g->dQ), free(g->dQ_bound), free(g->dK), free(g->dK_bound), free(g->dV), free(g->dV_bound);
    *g = (struct gradients){ 0 };
}

double reference_backward_bytes(struct attention p)
{
    double queries = (double)p.seq_q * (double)p.dim, keys = (double)p.seq_k * (double)p.dim;
    return sizeof(double) * ((2 * (double)attention_group(p) + 3) * queries + 6 * keys + 4.0 * QUERIES * (double)p.seq_k);
}

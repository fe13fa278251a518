/* Broken attentions, each a mistake that somebody made; and what
   they have in common, so that each shows little but its mistake. */
#ifndef ATTENTION_MUTANTS_H
#define ATTENTION_MUTANTS_H

#include <math.h>

#include "../../common/harness/harness.h"

struct attention_mutant {
    struct attention_step step; /* its function; name is that of the file */
    const char *file;           /* under tests/mutants */
    const char *mimics;         /* the step that it would be without its mistake, and whose claims it is held to */
    const char *caught_by;      /* the check that it must fail */
};

extern const struct attention_mutant attention_mutants[];
extern const int attention_mutant_count;

attention_cpu_fn attention_no_maximum, attention_maximum_from_zero, attention_tile_maximum, attention_sentinel;
attention_cpu_fn attention_output_not_rescaled, attention_sum_not_rescaled, attention_empty_merge,
    attention_split_without_weights;
attention_cpu_fn attention_last_tile_dropped, attention_last_key_dropped, attention_key_too_many, attention_no_mask,
    attention_top_left, attention_no_key_rows;
attention_cpu_fn attention_no_scale, attention_own_scale, attention_wrong_head, attention_padded_keys;
attention_cpu_fn attention_no_repair, attention_late_repair, attention_repair_without_sum, attention_repair_without_output,
    attention_other_rows_reference;
attention_cpu_fn attention_vote, attention_mask_by_adding, attention_any_order, attention_log2_lse, attention_nan_swallowed;
attention_cpu_fn attention_zeros, attention_mean, attention_nan, attention_stale;

/* One row of Q and of O: a query of `dim` numbers, the keys and values of its head, and how many of these it sees. */
struct query {
    const float *q, *K, *V;
    float *o;
    int64_t keys, dim;
    float scale;
};

static inline int64_t query_count(struct attention p)
{
    return p.batch * p.heads * p.seq_q;
}

static inline struct query query_at(float *O, const float *Q, const float *K, const float *V, struct attention p, int64_t row)
{
    int64_t kv_at = attention_kv_head(p, row / p.seq_q) * p.seq_k * p.dim, at = row * p.dim;
    return (struct query){ Q + at, K + kv_at, V + kv_at, O + at, attention_visible(p, row % p.seq_q), p.dim, p.scale };
}

static inline float score(struct query a, int64_t key)
{
    float dot = 0.0f;
    for (int64_t i = 0; i < a.dim; i++)
        dot += a.q[i] * a.K[key * a.dim + i];
    return a.scale * dot;
}

/* exp(x - m). A maximum of -inf, because all scores are, is not subtracted: -inf less -inf is NaN. */
static inline float exp_below(float x, float m)
{
    return expf(x - (m == -INFINITY ? 0.0f : m));
}

/* o = o * keep + weight * the key's value. keep == 0 starts anew. */
static inline void add_value(struct query a, float keep, float weight, int64_t key)
{
    for (int64_t i = 0; i < a.dim; i++)
        a.o[i] = (keep == 0.0f ? 0.0f : a.o[i] * keep) + weight * a.V[key * a.dim + i];
}

/* o = o / l, or zeros; and the lse of the row, if it is wanted. */
static inline void finish(struct query a, float *lse, int64_t row, float m, float l)
{
    for (int64_t i = 0; i < a.dim; i++)
        a.o[i] = l == 0.0f ? 0.0f : a.o[i] / l;
    if (lse)
        lse[row] = l == 0.0f ? -INFINITY : m + logf(l);
}

#endif

/* What goes into attention, and what must hold of what comes out. */
#include "attention_checks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "suites.h"

#define SMALL_WORK 1000000 /* queries x keys x dim: see TESTS_SMALL in checks.h */
#define REPEATS 5
#define THREADS 5

/* ---- numbers that no family of common/harness/input.c has */

static float noise(uint64_t seed, int64_t at)
{
    return (float)(random_bits(seed, (uint64_t)at) >> 40) * 0x1p-23f - 1; /* from -1 to 1 */
}

static void fill_noise(struct attention_case *c)
{
    struct buffer *all[] = { &c->q, &c->k, &c->v };
    for (int t = 0; t < 3; t++)
        for (int64_t i = 0; i < (int64_t)(all[t]->bytes / dtype_bytes(c->dtype)); i++)
            element_set(all[t]->data, c->dtype, i, 2 * noise(21 + (uint64_t)t, i));
}

/* V = the unit matrix: O is P itself. */
static void fill_unit_values(struct attention_case *c)
{
    fill_noise(c);
    for (int64_t row = 0; row < c->p.batch * c->p.kv_heads * c->p.seq_k; row++)
        for (int64_t i = 0; i < c->p.dim; i++)
            element_set(c->v.data, c->dtype, row * c->p.dim + i, i == row % c->p.seq_k ? 1 : 0);
}

/*
 * Scores of 2^22 + j, and of -2^22 + j for every other query, j from -8 to 7: exact in fp32 and in every step on the way there.
 * What is rounded after that is too coarse: c times such a score is off by a quarter.
 */
static void fill_far_off(struct attention_case *c)
{
    fill_noise(c);
    c->p.scale = 1;
    memset(c->q.data, 0, c->q.bytes);
    memset(c->k.data, 0, c->k.bytes);
    for (int64_t row = 0; row < c->p.batch * c->p.heads * c->p.seq_q; row++) {
        element_set(c->q.data, c->dtype, row * c->p.dim, row % 2 ? -2048 : 2048);
        element_set(c->q.data, c->dtype, row * c->p.dim + 1, 1);
    }
    for (int64_t row = 0; row < c->p.batch * c->p.kv_heads * c->p.seq_k; row++) {
        element_set(c->k.data, c->dtype, row * c->p.dim, 2048);
        element_set(c->k.data, c->dtype, row * c->p.dim + 1, (double)(row * 7 % 16 - 8));
    }
}

/* Scores of -inf: of every third key; and of all keys of every other head, whose queries have nothing to attend to. */
static void fill_minus_infinity(struct attention_case *c)
{
    fill_noise(c);
    for (int64_t row = 0; row < c->p.batch * c->p.heads * c->p.seq_q; row++)
        element_set(c->q.data, c->dtype, row * c->p.dim, 0.5);
    for (int64_t row = 0; row < c->p.batch * c->p.kv_heads * c->p.seq_k; row++)
        if (row % 3 == 0 || row / c->p.seq_k % 2 == 0)
            element_set(c->k.data, c->dtype, row * c->p.dim, -INFINITY);
}

static void fill_scale_of_zero(struct attention_case *c)
{
    fill_noise(c);
    c->p.scale = 0;
}

/* One element of one value of each head: that column of O, and no other. */
static void fill_nan_value(struct attention_case *c)
{
    fill_noise(c);
    for (int64_t head = 0; head < c->p.batch * c->p.kv_heads; head++)
        element_set(c->v.data, c->dtype, (head * c->p.seq_k + c->p.seq_k / 2) * c->p.dim + head, NAN);
}

/* Under a causal mask the first queries do not see them. */
static void fill_nan_later(struct attention_case *c)
{
    fill_noise(c);
    for (int64_t row = 0; row < c->p.batch * c->p.kv_heads * c->p.seq_k; row++)
        for (int64_t i = 0; i < c->p.dim && row % c->p.seq_k >= c->p.seq_k / 2; i++) {
            element_set(c->k.data, c->dtype, row * c->p.dim + i, NAN);
            element_set(c->v.data, c->dtype, row * c->p.dim + i, NAN);
        }
}

/* The key that a query is made for: in turn the first that it sees, the last, and those at the borders of tiles. */
static int64_t own_key(struct attention p, int64_t query)
{
    static const int64_t places[] = { 0, -1, 63, 64, 127, 128, 15, 16, 175, 176, 255, 256, 191, 192, -2, 1 };
    int64_t visible = attention_visible(p, query), at = places[query % 16];
    return at < 0 ? (visible + at < 0 ? 0 : visible + at) : at < visible ? at : query * 7 % visible;
}

/*
 * Keys are random signs, and a query is a multiple of its own key: no other gets any weight. A value's numbers name its row, or
 * its column.
 */
static void fill_own_key(struct attention_case *c)
{
    struct attention p = c->p;
    int64_t group = p.heads / p.kv_heads;
    for (int64_t at = 0; at < p.batch * p.kv_heads * p.seq_k * p.dim; at++) {
        int64_t row = at / p.dim, i = at % p.dim;
        element_set(c->k.data, c->dtype, at, noise(26, at) < 0 ? -1 : 1);
        element_set(c->v.data, c->dtype, at, (float)(i % 2 ? row % 256 : i));
    }
    for (int64_t row = 0; row < p.batch * p.heads * p.seq_q; row++) {
        int64_t head = row / p.seq_q, kv_head = head / p.heads * p.kv_heads + head % p.heads / group;
        bool sees = attention_visible(p, row % p.seq_q) > 0; /* any key at all */
        int64_t own = sees ? (kv_head * p.seq_k + own_key(p, row % p.seq_q)) * p.dim : 0;
        for (int64_t i = 0; i < p.dim; i++)
            element_set(c->q.data, c->dtype, row * p.dim + i, sees ? 16 * (float)element(c->k.data, c->dtype, own + i) : 1);
    }
}

/* ---- what must hold */

static struct outcome failed(const char *what)
{
    struct outcome o = { false, NAN, NAN, "" };
    snprintf(o.what, sizeof o.what, "%s", what);
    return o;
}

static struct outcome judge_answer(const struct attention_subject *s, struct attention_case *c)
{
    const char *problem = attention_case_run(s, c, true);
    return problem ? failed(problem) : attention_case_verdict(s, c);
}

/*
 * The verdict allows for fp32 scores of any rounding, which far off is anything. The steps on tensor cores owe more: they
 * subtract before they scale, so that what is left are the roundings of their type. (Not step 12, which rounds scores to it.)
 */
static struct outcome judge_far_off(const struct attention_subject *s, struct attention_case *c)
{
    bool library = strcmp(s->step->name, "12_library_attention") == 0;
    struct outcome o = judge_answer(s, c);
    if (library && c->dtype == FP16) /* it says that its scores end at 65504 */
        return o.pass ? failed("scores of 2^22 in fp16") : (struct outcome){ .pass = true };
    if (!o.pass || c->dtype == FP32 || library)
        return o;
    const struct answers *a = attention_case_answers(c, s);
    double allowed = 8 * (c->dtype == BF16 ? 0x1p-8 : 0x1p-11) * 2; /* V reaches 2 */
    for (int64_t i = 0; i < a->count * c->p.dim; i++)
        if (!(fabs(element(c->O.data, c->dtype, i) - a->want[i]) <= allowed))
            return failed("scores that differ by whole numbers are told apart too coarsely");
    return o;
}

/* Copies of O and lse, in one piece. */
static char *kept_outputs(const struct attention_case *c)
{
    char *kept = malloc(c->O.bytes + c->lse.bytes);
    memcpy(kept, c->O.data, c->O.bytes);
    memcpy(kept + c->O.bytes, c->lse.data, c->lse.bytes);
    return kept;
}

static bool same_outputs(const struct attention_case *c, const char *kept)
{
    return memcmp(c->O.data, kept, c->O.bytes) == 0 && memcmp(c->lse.data, kept + c->O.bytes, c->lse.bytes) == 0;
}

static struct outcome judge_repeats(const struct attention_subject *s, struct attention_case *c)
{
    struct outcome o = judge_answer(s, c);
    char *first = kept_outputs(c);
    for (int again = 0; again < REPEATS && o.pass; again++) {
        const char *problem = attention_case_run(s, c, true);
        if (problem || !same_outputs(c, first))
            o = failed(problem ? problem : "not the same bits when run again");
    }
    free(first);
    return o;
}

static struct outcome judge_without_lse(const struct attention_subject *s, struct attention_case *c)
{
    struct outcome o = judge_answer(s, c);
    char *first = kept_outputs(c);
    const char *problem = attention_case_run(s, c, false);
    if (o.pass && (problem || memcmp(c->O.data, first, c->O.bytes)))
        o = failed(problem ? problem : "another O when no lse is wanted");
    free(first);
    return o;
}

static struct outcome judge_threads(const struct attention_subject *s, struct attention_case *c)
{
    struct outcome o = { .pass = true };
    int usual = cpu_threads();
    for (int threads = 1; threads <= THREADS_UP_TO(THREADS) && o.pass; threads++) {
        cpu_set_threads(threads);
        o = judge_answer(s, c);
    }
    cpu_set_threads(usual);
    return o;
}

/* The bytes of a key, and of a value: (row, dim). */
static size_t row_bytes(const struct attention_case *c)
{
    return (size_t)c->p.dim * dtype_bytes(c->dtype);
}

/* Moves every key, and its value, `shift` places on: neither O nor lse may change by more than rounding. */
static void rotate_keys(struct attention_case *c, int64_t shift)
{
    struct buffer *both[] = { &c->k, &c->v };
    size_t row = row_bytes(c);
    for (int t = 0; t < 2; t++) {
        char *before = malloc(both[t]->bytes), *after = both[t]->data;
        memcpy(before, after, both[t]->bytes);
        for (int64_t key = 0; key < c->p.batch * c->p.kv_heads * c->p.seq_k; key++) {
            int64_t at = key % c->p.seq_k;
            memcpy(after + (size_t)(key - at + (at + shift) % c->p.seq_k) * row, before + (size_t)key * row, row);
        }
        free(before);
    }
}

static struct outcome judge_permuted(const struct attention_subject *s, struct attention_case *c)
{
    struct outcome o = { .pass = true };
    for (int64_t shift = 1; shift < c->p.seq_k && o.pass; shift = 3 * shift + 1) {
        rotate_keys(c, shift);
        const char *problem = attention_case_run(s, c, true);
        rotate_keys(c, c->p.seq_k - shift);
        o = problem ? failed(problem) : attention_case_verdict(s, c); /* of the keys in their old order */
    }
    return o;
}

/* Whether every query that sees none of the keys from `cut` on has the same bits as in `kept`. */
static bool same_before(const struct attention_case *c, const char *kept, int64_t cut)
{
    size_t row = row_bytes(c);
    for (int64_t at = 0; at < c->p.batch * c->p.heads * c->p.seq_q; at++)
        if (attention_visible(c->p, at % c->p.seq_q) <= cut &&
            (memcmp((char *)c->O.data + (size_t)at * row, kept + (size_t)at * row, row) ||
             memcmp((float *)c->lse.data + at, kept + c->O.bytes + (size_t)at * sizeof(float), sizeof(float))))
            return false;
    return true;
}

/* Causal: a query does not depend on later keys, not by a bit. These are large, so that other queries' maxima rise. */
static struct outcome judge_later_keys(const struct attention_subject *s, struct attention_case *c)
{
    struct outcome o = judge_answer(s, c);
    char *kept = kept_outputs(c);
    for (int64_t cut = c->p.seq_k - 1; cut > 0 && o.pass; cut -= 13) { /* each time a few more keys are others */
        for (int64_t key = 0; key < c->p.batch * c->p.kv_heads * c->p.seq_k; key++)
            for (int64_t i = 0; i < c->p.dim && key % c->p.seq_k >= cut; i++) {
                element_set(c->k.data, c->dtype, key * c->p.dim + i, 20 * noise(31, key * c->p.dim + i + cut));
                element_set(c->v.data, c->dtype, key * c->p.dim + i, 20 * noise(32, key * c->p.dim + i + cut));
            }
        const char *problem = attention_case_run(s, c, true);
        if (problem || !same_before(c, kept, cut))
            o = failed(problem ? problem : "keys that a query does not see change its bits");
    }
    free(kept);
    return o;
}

/* How judge_other_queries changes every fifth row of Q: by what its numbers, from -1 to 1, are multiplied. */
static const float other_queries[] = { NAN, 300, -300, INFINITY, 0 };

/* A query does not depend on the others, not by a bit: whatever they do to a maximum that is kept for several, or to a repair. */
static struct outcome judge_other_queries(const struct attention_subject *s, struct attention_case *c)
{
    struct outcome o = judge_answer(s, c);
    char *kept = kept_outputs(c);
    size_t row = row_bytes(c);
    for (int kind = 0; kind < (int)(sizeof other_queries / sizeof other_queries[0]) && o.pass; kind++) {
        for (int64_t at = 0; at < c->p.batch * c->p.heads * c->p.seq_q; at += 5)
            for (int64_t i = 0; i < c->p.dim; i++)
                element_set(c->q.data, c->dtype, at * c->p.dim + i, other_queries[kind] * noise(33, at * c->p.dim + i));
        const char *problem = attention_case_run(s, c, true);
        for (int64_t at = 0; at < c->p.batch * c->p.heads * c->p.seq_q && !problem; at++)
            if (at % 5 && (memcmp((char *)c->O.data + (size_t)at * row, kept + (size_t)at * row, row) ||
                           memcmp((float *)c->lse.data + at, kept + c->O.bytes + (size_t)at * sizeof(float), sizeof(float))))
                problem = "other queries change a query's bits";
        if (problem)
            o = failed(problem);
    }
    free(kept);
    return o;
}

/* The same queries, and `count` of each head's keys. */
static struct attention_case part_of(const struct attention_case *c, int64_t first, int64_t count)
{
    struct attention p = c->p;
    p.seq_k = count;
    struct attention_case part = attention_case_new(p, c->dtype);
    size_t row = row_bytes(c);
    memcpy(part.q.data, c->q.data, c->q.bytes);
    for (int64_t head = 0; head < p.batch * p.kv_heads; head++) {
        size_t to = (size_t)(head * count) * row, from = (size_t)(head * c->p.seq_k + first) * row;
        memcpy((char *)part.k.data + to, (char *)c->k.data + from, (size_t)count * row);
        memcpy((char *)part.v.data + to, (char *)c->v.data + from, (size_t)count * row);
    }
    return part;
}

/*
 * Two parts' outputs, merged by their lse: m = max(lse), weights exp(lse - m), and O the weighted mean. It is off by what the
 * parts are off by, and by what the weights are, because each lse has an error of its own.
 */
static bool merged_row_is_right(const double *want, const struct attention_case *parts, const struct answers *const *answers,
                                int64_t at)
{
    int64_t dim = parts[0].p.dim;
    double weight[2], sum = 0, doubt = 0, m = -INFINITY;
    for (int i = 0; i < 2; i++)
        m = fmax(m, ((float *)parts[i].lse.data)[at]);
    for (int i = 0; i < 2; i++) {
        weight[i] = exp(((float *)parts[i].lse.data)[at] - m);
        doubt = fmax(doubt, expm1(answers[i]->lse[at].bound));
        sum += weight[i];
    }
    for (int64_t e = 0; e < dim; e++) {
        double got = 0, bound = 0;
        for (int i = 0; i < 2; i++) {
            got += weight[i] / sum * element(parts[i].O.data, parts[i].dtype, at * dim + e);
            bound += weight[i] / sum * (answers[i]->bound[at * dim + e] + 2 * doubt * fabs(answers[i]->want[at * dim + e]));
        }
        if (!(fabs(got - want[e]) <= bound * (1 + 2 * doubt)))
            return false;
    }
    return true;
}

static struct outcome judge_split(const struct attention_subject *s, struct attention_case *c)
{
    struct outcome o = { .pass = true };
    const struct answers *whole = attention_case_answers(c, s);
    for (int64_t count = 1; count < c->p.seq_k && o.pass; count = 3 * count + 1) {
        struct attention_case parts[] = { part_of(c, 0, count), part_of(c, count, c->p.seq_k - count) };
        for (int i = 0; i < 2 && o.pass; i++) {
            const char *problem = attention_case_run(s, &parts[i], true);
            if (problem)
                o = failed(problem);
        }
        const struct answers *const answers[] = { attention_case_answers(&parts[0], s), attention_case_answers(&parts[1], s) };
        for (int64_t at = 0; at < whole->count && o.pass; at++)
            if (!merged_row_is_right(whole->want + at * c->p.dim, parts, answers, at))
                o = failed("two parts of the keys, merged by their lse, are not the whole");
        attention_case_free(&parts[0]);
        attention_case_free(&parts[1]);
    }
    return o;
}

/* With the unit matrix for V, a row of O is a softmax, and sums to 1. */
static struct outcome judge_weights(const struct attention_subject *s, struct attention_case *c)
{
    struct outcome o = judge_answer(s, c);
    const struct answers *a = attention_case_answers(c, s);
    for (int64_t at = 0; at < a->count && o.pass; at++) {
        double sum = 0, bound = 0;
        for (int64_t i = at * c->p.dim; i < (at + 1) * c->p.dim; i++) {
            sum += element(c->O.data, c->dtype, i);
            bound += a->bound[i];
        }
        if (!(fabs(sum - (attention_visible(c->p, at % c->p.seq_q) > 0)) <= bound))
            o = failed("a row of weights does not sum to 1");
    }
    return o;
}

/* ---- problems: batch, heads, kv_heads, seq_q, seq_k, dim, causal, scale (0: 1 / sqrt(dim)) */

#define BOTH(b, h, kv, q, k, dim) { b, h, kv, q, k, dim, false, 0 }, { b, h, kv, q, k, dim, true, 0 }
#define LENGTHS(q, k) BOTH(2, 6, 2, q, k, 64), BOTH(1, 3, 1, q, k, 128)
#define DIM(dim) BOTH(1, 2, 1, 1, 3, dim), BOTH(1, 1, 1, 113, 203, dim), BOTH(2, 2, 2, 64, 50, dim)

static const struct attention ordinary[] = {
    { 2, 2, 2, 113, 203, 64, false, 0 }, { 1, 2, 2, 64, 64, 64, false, 0 }, { 1, 2, 2, 128, 217, 128, false, 0 },
};
static const struct attention causal[] = { { 1, 2, 2, 64, 64, 64, true, 0 }, { 1, 2, 2, 113, 113, 128, true, 0 } };
static const struct attention unlike[] = {
    { 1, 2, 2, 113, 203, 64, true, 0 }, { 1, 2, 2, 64, 128, 128, true, 0 }, { 1, 2, 2, 127, 513, 64, true, 0 },
};
static const struct attention no_keys[] = {
    { 1, 2, 2, 203, 113, 64, true, 0 }, { 1, 2, 2, 239, 1, 64, true, 0 }, { 1, 2, 2, 3, 1, 128, true, 0 },
    { 1, 2, 2, 256, 108, 128, true, 0 }, { 1, 2, 2, 512, 127, 64, true, 0 },
};
static const struct attention grouped[] = {
    { 1, 6, 2, 40, 50, 64, false, 0 }, { 2, 6, 1, 40, 50, 64, true, 0 }, { 2, 6, 3, 50, 40, 128, false, 0 },
    { 2, 4, 4, 9, 8, 64, false, 0 },
};
static const struct attention lengths[] = {
    LENGTHS(1, 1), LENGTHS(1, 3), LENGTHS(3, 1), LENGTHS(1, 239), LENGTHS(239, 1), LENGTHS(64, 128), LENGTHS(113, 203),
    LENGTHS(127, 512), LENGTHS(127, 513), LENGTHS(128, 217), LENGTHS(108, 256), LENGTHS(512, 256),
    BOTH(1, 1, 1, 1023, 1024, 64), BOTH(1, 2, 1, 1024, 1023, 64), BOTH(1, 1, 1, 1023, 1024, 128),
};
static const struct attention dims[] = {
    DIM(8), DIM(21), DIM(32), DIM(40), DIM(59), DIM(64), DIM(72), DIM(96), DIM(128), DIM(160), DIM(256), DIM(1), DIM(3), DIM(65),
    DIM(129),
};
static const struct attention scales[] = {
    { 1, 2, 2, 64, 64, 64, false, 1.0f / 64 }, { 1, 1, 1, 64, 64, 64, true, 1 },   { 1, 2, 1, 70, 90, 128, true, 0.3f },
    { 1, 2, 1, 70, 90, 64, true, -0.3f },      { 1, 1, 1, 200, 133, 128, false, -0.1f }, { 1, 2, 2, 150, 130, 64, true, -0.125f },
};
static const struct attention varied[] = {
    { 1, 1, 1, 200, 200, 64, true, 0 }, { 1, 2, 2, 64, 64, 64, false, 0 }, { 1, 1, 1, 33, 500, 128, false, 0 },
    { 2, 2, 1, 1, 300, 64, false, 0 }, { 1, 1, 1, 128, 128, 128, true, 0 },
};
static const struct attention slopes[] = {
    { 1, 1, 1, 70, 200, 64, false, 0 }, { 1, 1, 1, 130, 1100, 64, false, 0 }, { 1, 1, 1, 130, 700, 128, false, 0 },
    { 1, 1, 1, 401, 401, 64, true, 0 }, { 1, 1, 1, 130, 610, 128, true, 0 },
};
static const struct attention own[] = {
    { 1, 1, 1, 70, 130, 64, true, 0 }, BOTH(1, 2, 1, 200, 200, 64), BOTH(1, 1, 1, 130, 400, 128), BOTH(1, 2, 2, 150, 100, 64),
};
/* Queries and keys around the borders of tiles, and one tile or less from each other: which keys a row sees of which block. */
static const struct attention borders[] = {
    { 1, 2, 1, 192, 256, 64, true, 0 }, { 1, 2, 1, 128, 64, 128, true, 0 }, { 1, 2, 1, 386, 190, 64, true, 0 },
    { 1, 2, 1, 382, 63, 128, true, 0 }, { 1, 2, 1, 223, 160, 64, false, 0 }, { 1, 2, 1, 385, 127, 128, true, 0 },
    { 1, 2, 1, 129, 127, 64, true, 0 }, { 1, 2, 1, 159, 322, 128, true, 0 }, { 1, 2, 1, 319, 320, 64, true, 0 },
    { 1, 2, 1, 159, 191, 128, false, 0 }, { 1, 2, 1, 192, 63, 64, true, 0 }, { 1, 2, 1, 256, 322, 128, true, 0 },
    { 1, 2, 1, 129, 1, 64, true, 0 }, { 1, 2, 1, 127, 65, 128, true, 0 }, { 1, 2, 1, 190, 254, 64, false, 0 },
    { 1, 2, 1, 191, 192, 128, true, 0 }, { 1, 2, 1, 191, 318, 64, true, 0 }, { 1, 2, 1, 415, 64, 128, true, 0 },
    { 1, 2, 1, 191, 258, 64, true, 0 }, { 1, 2, 1, 64, 255, 128, false, 0 }, { 1, 2, 1, 258, 257, 64, true, 0 },
    { 1, 2, 1, 255, 65, 128, true, 0 }, { 1, 2, 1, 66, 384, 64, true, 0 }, { 1, 2, 1, 319, 257, 128, true, 0 },
};
/* More tiles of queries than a GPU has multiprocessors: two or more for each. And as many caches as it has, so that no keys are
   shared, and a block has many tiles of them. */
static const struct attention many[] = {
    { 20, 20, 4, 40, 60, 64, true, 0 }, { 10, 14, 14, 260, 40, 64, false, 0 }, { 9, 15, 5, 140, 140, 128, true, 0 },
    { 1, 140, 1, 3, 4200, 64, true, 0 }, { 1, 140, 2, 3, 1100, 64, false, 0 },
    { 66, 2, 2, 1, 1100, 128, false, 0 }, { 66, 4, 2, 2, 900, 64, true, 0 },
};
/* A few queries and many keys, which are shared among cores or blocks; the last leave some of these shares without any. */
static const struct attention decoding[] = {
    { 1, 1, 1, 1, 300, 64, false, 0 },    { 1, 1, 1, 1, 9000, 64, false, 0 }, { 1, 8, 2, 1, 3001, 128, false, 0 },
    { 2, 8, 1, 3, 1500, 64, true, 0 },    { 1, 4, 2, 16, 1100, 128, true, 0 }, { 1, 6, 2, 2, 700, 40, true, 0 },
    { 1, 1, 1, 150, 140, 64, true, 0 },   { 1, 5, 5, 100, 129, 128, true, 0 },
};
static const struct attention far[] = { { 1, 2, 2, 64, 64, 64, false, 0.125f }, { 1, 1, 1, 113, 113, 64, true, 0.125f } };
static const struct attention within_dim[] = {
    BOTH(1, 1, 1, 1, 1, 64), BOTH(1, 2, 1, 3, 5, 64), BOTH(1, 2, 2, 64, 64, 64), BOTH(1, 2, 1, 200, 100, 128),
    BOTH(2, 1, 1, 33, 128, 128),
};
static const struct attention squares[] = { { 1, 2, 1, 203, 203, 64, true, 0 }, { 1, 1, 1, 300, 300, 128, true, 0 } };
static const struct attention open[] = { { 1, 2, 1, 40, 239, 64, false, 0 }, { 1, 1, 1, 33, 500, 128, false, 0 } };
static const struct attention repeated[] = { BOTH(2, 6, 2, 113, 203, 64), BOTH(1, 1, 1, 200, 512, 128), BOTH(1, 1, 1, 1, 1, 64) };
static const struct attention real[] = { { .causal = false }, { .causal = true } };

#define FAMILY(name) .family = name
#define FILL(f) .fill = f
#define JUDGE(f) .judge = f
#define ON(list) .problems = list, .count = sizeof list / sizeof list[0]

const struct attention_check attention_checks[] = {
    { "ordinary", "normal numbers, ordinary shapes", FAMILY("normal"), ON(ordinary) },
    { "causal", "the same under a causal mask", FAMILY("normal"), ON(causal) },
    { "alignment", "causal, more keys than queries: the last query sees the last key", FAMILY("normal"), ON(unlike) },
    { "no keys", "causal, more queries than keys: zeros and -inf for those that see none", FAMILY("normal"), ON(no_keys) },
    { "grouped heads", "several heads of Q to a head of K and V", FAMILY("normal"), ON(grouped) },
    { "lengths", "all lengths that might be mishandled", FAMILY("normal"), ON(lengths) },
    { "dims", "head dimensions from 1 to 256", FAMILY("normal"), ON(dims) },
    { "scale", "other scales than 1 / sqrt(dim)", FAMILY("normal"), ON(scales) },
    { "scale of 0", "a scale of 0: the mean of the values that a query sees", FILL(fill_scale_of_zero), ON(varied) },
    { "far off", "scores of 2^22 and of -2^22 that differ by whole numbers", FILL(fill_far_off), JUDGE(judge_far_off),
      .in_doubt = true,
      ON(varied) },
    { "minus infinity", "scores of -inf: of some keys, and of all", FILL(fill_minus_infinity), ON(varied) },
    { "uniform", "numbers from -1 to 1", FAMILY("uniform"), ON(varied) },
    { "equal", "all keys equal: the mean of V", FAMILY("equal"), ON(varied) },
    { "rising", "scores from -320 to +320 along the keys", FAMILY("rising"), ON(varied) },
    { "falling", "scores from +320 to -320 along the keys", FAMILY("falling"), ON(varied) },
    { "adversarial", "in turn: rising, falling, around -320, and normal", FAMILY("adversarial"), ON(varied) },
    { "far below", "scores around -51200", FAMILY("deep"), .in_doubt = true, ON(far) },
    { "peak", "one key 20 times as large as the others", FAMILY("peak"), ON(varied) },
    { "large", "Q 5 times, K and V 3 times as large", FAMILY("large"), ON(varied) },
    { "wide values", "V from 1e-30 to 1e30, in fp16 from 1e-4 to 6e4", FAMILY("wide"), ON(varied) },
    { "slopes", "scores that rise by -320 to 320 along the keys, each query's by another amount; wide values", FAMILY("slopes"),
      ON(slopes) },
    { "own key", "a query sees one key: the first, the last, those at borders; V says which", FILL(fill_own_key), ON(own) },
    { "borders", "lengths around the borders of tiles; scores as in \"adversarial\"", FAMILY("adversarial"), ON(borders) },
    { "many tiles", "many heads, many tiles; scores as in \"adversarial\"", FAMILY("adversarial"), .gpu_only = true,
      ON(many) },
    { "few queries", "a few queries, many keys; scores as in \"adversarial\"", FAMILY("adversarial"), ON(decoding) },
    { "real", "Q, K and V of a real model", FAMILY("real"), ON(real) },
    { "weights", "V is the unit matrix: O is P, and its rows sum to 1", FILL(fill_unit_values), JUDGE(judge_weights),
      ON(within_dim) },
    { "NaN queries", "a NaN in every seventh row of Q: NaN there, and only there", FAMILY("nan"), ON(varied) },
    { "NaN value", "a NaN in a row of V: NaN in that column of O", FILL(fill_nan_value), ON(open) },
    { "NaN later", "causal, the later keys and values are NaN: nothing before may notice", FILL(fill_nan_later), .cpu_only = true,
      .library_fails = true, ON(squares) },
    { "later keys", "causal, the later keys are others: nothing before changes by a bit", FILL(fill_noise),
      JUDGE(judge_later_keys), ON(squares) },
    { "other queries", "a fifth of all queries are others, or NaN: no other result changes by a bit", FILL(fill_noise),
      JUDGE(judge_other_queries), ON(squares) },
    { "split keys", "two parts of the keys, merged by their lse, are the whole", FAMILY("normal"), JUDGE(judge_split), ON(open) },
    { "permuted keys", "the keys in another order: the same within the bound", FAMILY("normal"), JUDGE(judge_permuted),
      ON(open) },
    { "same bits", "the same bits when run again", FAMILY("normal"), JUDGE(judge_repeats), ON(repeated) },
    { "no lse", "the same bits when no lse is wanted", FAMILY("normal"), JUDGE(judge_without_lse), ON(repeated) },
    { "threads", "right on any number of threads", FAMILY("normal"), JUDGE(judge_threads), .cpu_only = true, ON(repeated) },
};
const int attention_check_count = sizeof attention_checks / sizeof attention_checks[0];

const struct attention_check *attention_check_named(const char *name)
{
    for (int i = 0; i < attention_check_count; i++)
        if (strcmp(attention_checks[i].name, name) == 0)
            return &attention_checks[i];
    return NULL;
}

bool check_is_chosen(const char *name)
{
    const char *chosen = getenv("TESTS_CHECK");
    return !chosen || strcmp(chosen, name) == 0;
}

bool dtype_is_chosen(enum dtype dtype)
{
    const char *chosen = getenv("TESTS_DTYPE");
    return !chosen || strcmp(chosen, dtype_name(dtype)) == 0;
}

bool attention_group_at(int index, bool gpu, const struct attention_check **c, enum dtype *dtype)
{
    for (*c = attention_checks; *c < attention_checks + attention_check_count; ++*c)
        for (*dtype = FP32; *dtype <= BF16; ++*dtype) {
            struct attention_subject s[MAX_SUBJECTS];
            bool left_out = (gpu ? (*c)->cpu_only : (*c)->gpu_only) || !check_is_chosen((*c)->name) || !dtype_is_chosen(*dtype);
            if (!left_out && attention_subjects_of(s, *dtype, gpu) > 0 && index-- == 0)
                return true;
        }
    return false;
}

int attention_group_count(bool gpu)
{
    const struct attention_check *c;
    enum dtype dtype;
    int count = 0;
    while (attention_group_at(count, gpu, &c, &dtype))
        count++;
    return count;
}

bool attention_must_fail(const struct attention_check *c, const struct attention_subject *s)
{
    return c->library_fails && strcmp(s->step->name, "12_library_attention") == 0;
}

/* One subject on a case; the case's inputs are the same before and after. */
static struct outcome run_case(const struct attention_check *check, const struct attention_subject *s, struct attention_case *c)
{
    struct buffer *inputs[] = { &c->q, &c->k, &c->v };
    char *before[3];
    for (int t = 0; t < 3; t++) {
        before[t] = malloc(inputs[t]->bytes);
        memcpy(before[t], inputs[t]->data, inputs[t]->bytes);
    }
    struct outcome o = (check->judge ? check->judge : judge_answer)(s, c);
    for (int t = 0; t < 3; t++) {
        memcpy(inputs[t]->data, before[t], inputs[t]->bytes);
        free(before[t]);
    }
    if (!o.pass) {
        struct outcome named = o;
        snprintf(named.what, sizeof named.what, "%s, %lld x %lld heads of %lld, %lld x %lld, dim %lld%s: %.150s",
                 attention_subject_name(s), (long long)c->p.batch, (long long)c->p.heads, (long long)c->p.kv_heads,
                 (long long)c->p.seq_q, (long long)c->p.seq_k, (long long)c->p.dim, c->p.causal ? ", causal" : "", o.what);
        o = named;
    }
    return o;
}

void attention_check_all(const struct attention_check *c, const struct attention_subject *subjects, int count,
                         struct outcome *outcomes)
{
    for (int s = 0; s < count; s++)
        outcomes[s] = (struct outcome){ .pass = true };
    for (int i = 0; i < c->count; i++) {
        const struct attention *p = &c->problems[i];
        struct attention_case made = { 0 };
        if (getenv("TESTS_SMALL") && p->batch * p->heads * p->seq_q * p->seq_k * p->dim > SMALL_WORK && i > 0)
            continue;
        for (int s = 0; s < count; s++) {
            if (!outcomes[s].pass || (p->dim && !attention_subject_takes(&subjects[s], p->dim)))
                continue;
            if (!made.q.data) {
                made = c->family ? attention_case_of(*p, subjects[s].dtype, c->family)
                                 : attention_case_new(*p, subjects[s].dtype);
                made.in_doubt = c->in_doubt;
                if (!c->family)
                    c->fill(&made);
            }
            struct outcome o = run_case(c, &subjects[s], &made);
            if (!o.pass || !(o.error <= outcomes[s].error))
                outcomes[s] = o;
        }
        attention_case_free(&made);
    }
}

struct outcome attention_check_run(const struct attention_check *c, const struct attention_subject *s)
{
    struct outcome o;
    attention_check_all(c, s, 1, &o);
    return o;
}

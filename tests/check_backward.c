/*
 * Gradients: their reference against finite differences, and every step that computes one, on the grid, between guards, into
 * memory that is all NaN.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention_checks.h"
#include "program.h"
#include "steps.h"
#include "suites.h"

#define STEP 1e-4 /* of finite differences: they are off by its square, and by 1e-16 over it */
#define NEAR 1e-6
#define RUNS 1000
#define SMALL_WORK 1000000 /* queries x keys x dim: see TESTS_SMALL in checks.h */
#define LARGE_WORK 1000000000 /* more is for GPUs alone */

/* What TESTS_CHECK may choose on a GPU. */
#define GRID "grid"
#define WITHOUT_DLSE "without dlse"
#define A_THOUSAND_RUNS "a thousand runs"

enum { Q, K, V, O, LSE, DO, DLSE, DQ, DK, DV };

/* ---- the reference */

static void random_doubles(double *x, int64_t count, uint64_t seed)
{
    for (int64_t i = 0; i < count; i++)
        x[i] = (double)(random_bits(seed, (uint64_t)i) >> 11) * 0x1p-52 - 1;
}

/* A loss of which the gradient is known, and what it is a function of. */
struct loss {
    double *x;
    double (*of)(const struct loss *l);
    struct attention p;
    const double *Q, *K, *V, *change; /* by dy, or dO */
    const float *dlse;
    int64_t count;
};

static double difference(struct loss *l, int64_t at)
{
    double x = l->x[at], above, below;
    l->x[at] = x + STEP;
    above = l->of(l);
    l->x[at] = x - STEP;
    below = l->of(l);
    l->x[at] = x;
    return (above - below) / (2 * STEP);
}

static double loss_of_softmax(const struct loss *l)
{
    double sum = 0, loss = 0;
    for (int64_t i = 0; i < l->count; i++)
        sum += exp(l->x[i]);
    for (int64_t i = 0; i < l->count; i++)
        loss += l->change[i] * exp(l->x[i]) / sum;
    return loss;
}

START_TEST(test_softmax_differences)
{
    enum { COLS = 17 };
    double x[COLS], dy[COLS], y[COLS], want[COLS], size;
    random_doubles(x, COLS, 1);
    random_doubles(dy, COLS, 2);
    struct loss l = { .x = x, .of = loss_of_softmax, .change = dy, .count = COLS };
    reference_softmax_row(y, x, FP64, COLS);
    reference_softmax_backward_row(want, y, dy, FP64, COLS, &size);
    for (int64_t i = 0; i < COLS; i++)
        REQUIRE(fabs(difference(&l, i) - want[i]) < NEAR, "column %lld: %g, and by differences %g", (long long)i, want[i],
                difference(&l, i));
}
END_TEST

static double product(const double *a, const double *b, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

/* sum dO O + sum dlse lse, from the definition. */
static double loss_of_attention(const struct loss *l)
{
    struct attention p = l->p;
    double loss = 0;
    for (int64_t row = 0; row < p.batch * p.heads * p.seq_q; row++) {
        int64_t keys = attention_visible(p, row % p.seq_q), first = attention_kv_head(p, row / p.seq_q) * p.seq_k;
        double sum = 0, output = 0;
        for (int64_t key = first; key < first + keys; key++) {
            double weight = exp((double)p.scale * product(l->Q + row * p.dim, l->K + key * p.dim, p.dim));
            sum += weight;
            output += weight * product(l->change + row * p.dim, l->V + key * p.dim, p.dim);
        }
        if (keys)
            loss += output / sum + (l->dlse ? (double)l->dlse[row] * log(sum) : 0);
    }
    return loss;
}

static const struct attention differentiated[] = {
    { 1, 1, 1, 5, 7, 3, false, 0.5f },
    { 2, 4, 2, 3, 4, 5, false, 1.25f },
    { 1, 2, 1, 6, 6, 4, true, 0.5f },
    { 1, 2, 2, 7, 4, 3, true, -0.75f }, /* queries that see no key */
    { 1, 1, 1, 3, 6, 2, true, 0 },
};

static void compare_differences(struct loss *l, double *x, const double *want, int64_t count, int64_t first, const char *name)
{
    l->x = x + first;
    for (int64_t i = 0; i < count; i++)
        REQUIRE(fabs(difference(l, i) - want[i]) < NEAR, "%s %lld: %g, and by differences %g", name, (long long)(first + i),
                want[i], difference(l, i));
}

START_TEST(test_attention_differences)
{
    struct attention p = differentiated[_i / 2];
    int64_t queries = p.batch * p.heads * p.seq_q, keys = p.batch * p.kv_heads * p.seq_k, of_q = queries * p.dim,
            of_k = keys * p.dim, group = attention_group(p) * p.seq_q * p.dim, head = p.seq_k * p.dim;
    double *x = malloc((size_t)(3 * of_q + 2 * of_k) * sizeof *x);
    double *Q = x, *K = Q + of_q, *V = K + of_k, *dO = V + of_k, *O = dO + of_q;
    float *dlse = malloc((size_t)(2 * queries) * sizeof *dlse), *lse = dlse + queries;
    random_doubles(x, 3 * of_q + 2 * of_k, 3);
    for (int64_t i = 0; i < queries; i++)
        dlse[i] = (float)O[i] - 0.5f;
    struct answers a = reference_attention(Q, K, V, FP64, p, (struct attention_rounding){ 0 }, NULL, queries, false);
    for (int64_t i = 0; i < queries; i++)
        lse[i] = (float)a.lse[i].want;
    answers_free(&a);
    const struct backward_inputs in = { Q, K, V, O, lse, dO, _i % 2 ? dlse : NULL };
    struct loss l = { .of = loss_of_attention, .p = p, .Q = Q, .K = K, .V = V, .change = dO, .dlse = in.dlse };
    for (int64_t kv = 0; kv < p.batch * p.kv_heads; kv++) {
        struct gradients g = reference_attention_backward(&in, FP64, p, (struct attention_rounding){ 0 }, kv);
        compare_differences(&l, Q, g.dQ, group, kv * group, "dQ");
        compare_differences(&l, K, g.dK, head, kv * head, "dK");
        compare_differences(&l, V, g.dV, head, kv * head, "dV");
        ck_assert_int_eq(g.doubtful, 0);
        gradients_free(&g);
    }
    free(x);
    free(dlse);
}
END_TEST

/* ---- the steps */

static const struct softmax_step *const softmax_steps[] = { &softmax_backward };
enum { SOFTMAX_STEPS = sizeof softmax_steps / sizeof *softmax_steps };

/* Judge a step on a problem; a row, or a group of heads, must depend on no other. What is wrong, in words, or NULL. */
static const char *judge(const struct kind *kind, const void *step, const char *name, const struct options *o, bool gpu,
                         const char *problem)
{
    static char why[480];
    struct run r = { .kind = kind, .step = step, .o = o, .device = gpu ? &gpu_device : &cpu_device };
    if (kind->missing(step, o, r.device))
        return NULL;
    struct verdict v = problem_judge(&r, name);
    bool again = !v.pass || (kind->any_order && kind->any_order(step, r.device)) || rows_stand_alone(&r, name);
    problem_free(&r);
    bool right = v.pass || (v.doubtful && !v.wrong);
    snprintf(why, sizeof why, "%s %s on the %s, %s: %s", name, dtype_name(o->dtype), r.device->name, problem,
             right ? "not the same bits when run again, with another last row" : v.what);
    return right && again ? NULL : why;
}

static void judge_softmax(bool gpu, int step)
{
    static const int64_t rows[] = { 1, 2, 7, 65 };
    static const int64_t cols[] = { 1, 2, 3, 4, 31, 32, 33, 127, 129, 256, 511, 513, 1000, 1024, 1025, 4099, 8192, 8193, 20003 };
    struct kind kind = softmax_backward_kind();
    const struct softmax_step *s = softmax_steps[step];
    char name[64];
    for (enum dtype dtype = FP32; dtype <= BF16; dtype++) {
        for (size_t i = 0; i < sizeof rows / sizeof *rows * (sizeof cols / sizeof *cols); i++) {
            struct options o = { .rows = rows[i % 4], .cols = cols[i / 4], .dtype = dtype, .input = "normal", .seed = i };
            snprintf(name, sizeof name, "%lld x %lld", (long long)o.rows, (long long)o.cols);
            const char *why = judge(&kind, s, s->name, &o, gpu, name);
            REQUIRE(!why, "%s", why);
        }
        struct options o = { .dtype = dtype };
        for (int i = 0; ; i++) {
            const char *problem = kind.small(s, &o, i);
            if (!problem)
                break;
            const char *why = judge(&kind, s, s->name, &o, gpu, problem);
            REQUIRE(!why, "%s", why);
        }
    }
}

START_TEST(test_softmax_steps)
{
    judge_softmax(false, _i);
}
END_TEST

START_TEST(test_softmax_steps_gpu)
{
    judge_softmax(true, _i);
}
END_TEST

/* Where y is 1 for one column of a row, nothing moves; and a change that is the same everywhere moves nothing. */
START_TEST(test_softmax_that_cannot_move)
{
    float y[] = { 1, 0, 0, 0.25f, 0.25f, 0.5f }, dy[] = { 3, -7, 1e6f, 4, 4, 4 }, dx[6];
    softmax_steps[_i]->backward_cpu(dx, y, dy, 2, 3);
    for (int i = 0; i < 6; i++)
        ck_assert(dx[i] == 0);
}
END_TEST

START_TEST(test_softmax_verdict)
{
    enum { ROWS = 3, COLS = 100 };
    float x[ROWS * COLS], y[ROWS * COLS], dy[ROWS * COLS], dx[ROWS * COLS];
    input_fill(x, FP32, ROWS, COLS, "normal", 1);
    input_fill(dy, FP32, ROWS, COLS, "normal", 2);
    for (int row = 0; row < ROWS; row++) {
        double want[COLS];
        reference_softmax_row(want, x + row * COLS, FP32, COLS);
        for (int i = 0; i < COLS; i++)
            y[row * COLS + i] = (float)want[i];
    }
    softmax_backward_cpu(dx, y, dy, ROWS, COLS);
    struct rounding how = softmax_backward.cpu_sum;
    ck_assert(verify_softmax_backward(dx, y, dy, FP32, ROWS, COLS, how).pass);
    dx[150] *= 1 + 1e-4f;
    struct verdict v = verify_softmax_backward(dx, y, dy, FP32, ROWS, COLS, how);
    ck_assert(!v.pass);
    ck_assert_int_eq(v.wrong, 1);
    ck_assert_int_eq(v.first_wrong, 1);
    memset(dx, 0, sizeof dx);
    ck_assert_int_eq(verify_softmax_backward(dx, y, dy, FP32, ROWS, COLS, how).wrong, ROWS * COLS);
    /* a sum whose chain is so long that it may be wrong by half says nothing */
    v = verify_softmax_backward(dx, y, dy, FP32, ROWS, COLS, (struct rounding){ .extra = 1 << 24 });
    ck_assert_int_eq(v.doubtful, ROWS);
    for (int i = 0; i < COLS; i++)
        dy[i] = i ? 3e38f : -3e38f; /* what the first differs by from the mean is beyond fp32: in doubt, unless it is finite */
    softmax_backward_cpu(dx, y, dy, ROWS, COLS);
    v = verify_softmax_backward(dx, y, dy, FP32, ROWS, COLS, how);
    ck_assert_msg(!isfinite(dx[0]) && v.wrong == 0 && v.doubtful == 1, "%g, %s", (double)dx[0], v.what);
    dx[0] = 1;
    v = verify_softmax_backward(dx, y, dy, FP32, ROWS, COLS, how);
    ck_assert_int_eq(v.wrong, 1);
}
END_TEST

/* ---- attention's */

static const struct attention_step *const attention_steps[] = {
    &attention_backward, &prepared_backward, &walked_backward, &recomputed_backward, &joined_backward,
    &mixed_backward, &chunked_backward, &scores_backward,
    &matrix_backward, &tensor_core_backward, &paired_backward, &coalesced_backward, &staged_backward, &sectioned_backward,
    &filled_backward, &boxed_backward, &copy_engine_backward, &square_backward, &values_backward, &warpgroup_backward,
    &across_backward, &specialized_backward, &bulk_add_backward, &hopper_backward, &ordered_backward,
};
enum { ATTENTION_STEPS = sizeof attention_steps / sizeof *attention_steps };

/* batch, heads, kv_heads, seq_q, seq_k, dim, causal, scale */
static const struct attention shapes[] = {
    { 1, 1, 1, 1, 1, 1, false, 0 },      { 1, 1, 1, 1, 1, 64, true, 0 },      { 1, 1, 1, 1, 300, 64, false, 0 },
    { 1, 1, 1, 300, 1, 64, true, 0 },    { 2, 3, 3, 33, 65, 5, false, 0 },    { 1, 2, 1, 15, 16, 16, true, 0 },
    { 1, 2, 2, 31, 32, 32, true, 0 },    { 1, 6, 2, 64, 64, 33, true, 0 },    { 2, 4, 1, 65, 63, 64, false, 0 },
    { 1, 1, 1, 127, 129, 64, true, 0 },  { 1, 2, 1, 128, 128, 80, true, 0 },  { 1, 1, 1, 130, 257, 128, false, 0 },
    { 1, 3, 3, 66, 200, 128, true, 0 },  { 2, 2, 1, 200, 66, 64, true, 0 },   { 1, 1, 1, 17, 200, 256, true, 0 },
    { 1, 2, 1, 70, 70, 100, true, 1.5f }, { 1, 2, 2, 70, 90, 64, false, -0.4f }, { 1, 1, 1, 70, 90, 64, false, 0 },
    { 1, 2, 1, 257, 191, 64, true, 0 },  { 1, 2, 2, 256, 192, 128, false, 0 }, { 1, 2, 2, 500, 2, 64, false, 0 },
    { 1, 2, 2, 500, 3, 128, true, 0 },
    { 1, 70, 70, 1000, 400, 128, true, 0 }, /* on GPUs: two sections of step 67, and more blocks than run at once */
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* The problem that steps were last judged on: its inputs, and its gradients for each rounding, are made once for all steps. */
static struct {
    struct options o; /* input is NULL: there is none */
    struct buffer inputs[DQ];
    struct gradients *known[32]; /* (batch kv_heads), or NULL */
    uint64_t seed;               /* which heads of a large one are judged */
} last;

static bool is_last(const struct options *o)
{
    const struct attention *a = &o->attention, *b = &last.o.attention;
    return last.o.input && strcmp(o->input, last.o.input) == 0 && o->dtype == last.o.dtype && o->seed == last.o.seed &&
           a->batch == b->batch && a->heads == b->heads && a->kv_heads == b->kv_heads && a->seq_q == b->seq_q &&
           a->seq_k == b->seq_k && a->dim == b->dim && a->causal == b->causal && a->scale == b->scale;
}

static int64_t groups_of(const struct options *o)
{
    return o->attention.batch * o->attention.kv_heads;
}

static void forget_last(void)
{
    for (int i = 0; i < 32; i++) {
        for (int64_t kv = 0; last.known[i] && kv < groups_of(&last.o); kv++)
            gradients_free(&last.known[i][kv]);
        free(last.known[i]);
        last.known[i] = NULL;
    }
    for (int i = Q; i < DQ; i++)
        buffer_free(&last.inputs[i]);
    last.o.input = NULL;
}

/* Copies: whoever takes them may change them. */
static void inputs_of_last(const struct options *o, struct buffer *inputs)
{
    if (!is_last(o)) {
        forget_last();
        attention_backward_kind().inputs_new(o, last.inputs);
        last.o = *o;
        last.seed = fresh_seed();
    }
    for (int i = Q; i < DQ; i++) {
        inputs[i] = buffer_new(last.inputs[i].bytes, &cpu_device);
        memcpy(inputs[i].data, last.inputs[i].data, inputs[i].bytes);
    }
}

static struct verdict verify_last(const struct run *r)
{
    const struct buffer *t = last.inputs, *made = r->host;
    const struct attention_rounding how = attention_rounding(r->step, r->device, r->o->dtype);
    bool without = !made[DLSE].data;
    int which = how.scores | how.weights << 1 | how.early << 2 | how.parts << 3 | without << 4;
    const struct backward_inputs in = { t[Q].data, t[K].data, t[V].data, t[O].data, t[LSE].data, t[DO].data,
                                        without ? NULL : t[DLSE].data };
    REQUIRE(is_last(r->o), "the gradients of another problem are here");
    if (!last.known[which])
        last.known[which] = calloc((size_t)groups_of(r->o), sizeof *last.known[which]);
    return verify_gradients(made[DQ].data, made[DK].data, made[DV].data, &in, r->o->dtype, r->o->attention, how, last.seed,
                            last.known[which]);
}

/* attention_backward_kind() for steps that are judged on one problem after the other, on the inputs that the problem has. */
static struct kind kind_of_last(void)
{
    struct kind k = attention_backward_kind();
    k.inputs_new = inputs_of_last;
    k.verify = verify_last;
    return k;
}

/* What failed of what was tried, so that no failure hides another. */
struct failures {
    int count;
    char text[3000]; /* Check takes 4096 */
};

static void add_failure(struct failures *f, const char *why)
{
    size_t at = strlen(f->text);
    if (why)
        snprintf(f->text + at, sizeof f->text - at, "%s%s", f->count++ ? "\n" : "", why);
}

#define REQUIRE_NONE(f) REQUIRE((f).count == 0, "%s (%d in all)", (f).text, (f).count)

/* The index-th problem of all types: the grid's, then those that every run of a program judges. Its name; NULL: no more. */
static const char *problem_at(int index, struct options *o)
{
    static char name[96];
    if (index < 3 * SHAPES) {
        int i = index % SHAPES;
        *o = (struct options){ .is_attention = true, .attention = shapes[i], .dtype = (enum dtype)(index / SHAPES),
                               .input = "normal", .seed = 1 };
        struct attention *p = &o->attention;
        if (p->scale == 0 && i != 17) /* which has a scale of 0 */
            p->scale = default_scale(p->dim);
        snprintf(name, sizeof name, "batch %d, heads %d of %d, %d x %d, dim %d%s, scale %g", (int)p->batch, (int)p->heads,
                 (int)p->kv_heads, (int)p->seq_q, (int)p->seq_k, (int)p->dim, p->causal ? ", causal" : "", (double)p->scale);
        return name;
    }
    index -= 3 * SHAPES;
    for (int i = 0; i < 6; i++)
        for (int problem = 0;; problem++) {
            *o = (struct options){ .is_attention = true, .attention.dim = i % 2 ? 128 : 64, .dtype = (enum dtype)(i / 2) };
            const char *said = attention_backward_kind().small(attention_steps[0], o, problem);
            if (!said)
                break;
            if (index-- == 0)
                return said;
        }
    return NULL;
}

static int problem_count(void)
{
    struct options o;
    int count = 0;
    while (problem_at(count, &o))
        count++;
    return count;
}

/* Every step on a problem. */
static void judge_attention(bool gpu, int problem)
{
    struct kind kind = kind_of_last();
    struct failures f = { 0 };
    struct options o;
    const char *name = problem_at(problem, &o);
    int64_t work = o.attention.heads * o.attention.seq_q * o.attention.seq_k * o.attention.dim;
    bool large = gpu ? getenv("TESTS_SMALL") && work > SMALL_WORK : work > LARGE_WORK;
    if ((large && problem < 3 * SHAPES) || (gpu && !dtype_is_chosen(o.dtype)))
        return;
    o.gpu = gpu; /* which then computes O and lse, too */
    if (gpu)
        progress(GRID, name);
    for (int i = 0; i < ATTENTION_STEPS; i++)
        if (step_is_chosen(attention_steps[i]->name))
            add_failure(&f, judge(&kind, attention_steps[i], attention_steps[i]->name, &o, gpu, name));
    REQUIRE_NONE(f);
}

START_TEST(test_attention_steps)
{
    judge_attention(false, _i);
}
END_TEST

START_TEST(test_attention_steps_gpu)
{
    judge_attention(true, _i);
}
END_TEST

/* The tensors of a problem and gradients that are right, to be spoilt. */
struct spoilt {
    struct attention p;
    struct buffer t[MAX_TENSORS];
    struct backward_inputs in;
    float *dQ, *dK, *dV;
};

static struct spoilt spoilt_new(void)
{
    struct spoilt s = { .p = { 1, 4, 2, 40, 50, 64, true, 0.125f } };
    struct kind kind = attention_backward_kind();
    struct options o = { .is_attention = true, .attention = s.p, .input = "normal", .seed = 1 };
    kind.inputs_new(&o, s.t);
    for (int i = DQ; i <= DV; i++)
        s.t[i] = buffer_new(kind.bytes(&o, i), &cpu_device);
    s.in = (struct backward_inputs){ s.t[Q].data, s.t[K].data, s.t[V].data, s.t[O].data, s.t[LSE].data, s.t[DO].data,
                                     s.t[DLSE].data };
    s.dQ = s.t[DQ].data, s.dK = s.t[DK].data, s.dV = s.t[DV].data;
    attention_backward_cpu(s.dQ, s.dK, s.dV, s.in.Q, s.in.K, s.in.V, s.in.O, s.in.lse, s.in.dO, s.in.dlse, s.p);
    return s;
}

static struct verdict verdict_of(const struct spoilt *s)
{
    return verify_attention_backward(s->dQ, s->dK, s->dV, &s->in, FP32, s->p, (struct attention_rounding){ 0 }, 1);
}

/* An element, a row, a sign, a factor, a tensor of zeros, another head's: each is seen. */
START_TEST(test_attention_verdict)
{
    struct spoilt s = spoilt_new();
    int64_t rows = s.p.heads * s.p.seq_q, keys = s.p.kv_heads * s.p.seq_k, head = s.p.seq_k * s.p.dim;
    struct verdict v = verdict_of(&s);
    ck_assert_msg(v.pass, "%s", v.what);
    ck_assert_int_eq(v.checked, rows + 2 * keys);
    switch (_i) {
    case 0: s.dQ[77 * s.p.dim + 5] += 1e-3f; break;
    case 1: memset(s.dK + 60 * s.p.dim, 0, (size_t)s.p.dim * sizeof *s.dK); break;
    case 2: s.dV[head] *= -1; break;
    case 3:
        for (int64_t i = 0; i < rows * s.p.dim; i++)
            s.dQ[i] *= 1.001f;
        break;
    case 4: memset(s.dK, 0, s.t[DK].bytes); break;
    case 5: memcpy(s.dV, s.dV + head, (size_t)head * sizeof *s.dV); break;
    case 6: s.dQ[3] = NAN; break;
    case 7: s.dK[3] = INFINITY; break;
    }
    v = verdict_of(&s);
    ck_assert(!v.pass && v.wrong > 0 && v.first_wrong >= 0);
    for (int i = Q; i <= DV; i++)
        buffer_free(&s.t[i]);
}
END_TEST

/* A large problem: some heads are drawn, whole; and one that is not finite is looked at, whether it was drawn or not. */
START_TEST(test_attention_verdict_draws)
{
    const struct attention_rounding none = { 0 };
    struct options o = { .is_attention = true, .attention = { 64, 1, 1, 512, 1024, 64, false, 0.125f }, .input = "uniform" };
    struct kind kind = attention_backward_kind();
    struct buffer t[MAX_TENSORS];
    for (int i = Q; i <= DV; i++) {
        t[i] = buffer_new(kind.bytes(&o, i), &cpu_device);
        memset(t[i].data, 0, t[i].bytes); /* all gradients of zeros are zeros */
    }
    for (int64_t row = 0; row < 64 * 512; row++)
        ((float *)t[LSE].data)[row] = logf(1024);
    struct backward_inputs in = { t[Q].data, t[K].data, t[V].data, t[O].data, t[LSE].data, t[DO].data, t[DLSE].data };
    struct verdict v = verify_attention_backward(t[DQ].data, t[DK].data, t[DV].data, &in, FP32, o.attention, none, 5);
    ck_assert(v.pass && v.checked % (512 + 2 * 1024) == 0 && v.checked > 0 && v.checked < v.rows);
    ((float *)t[DV].data)[62 * 1024 * 64 + 7] = NAN; /* a head that this seed does not draw */
    struct verdict broken = verify_attention_backward(t[DQ].data, t[DK].data, t[DV].data, &in, FP32, o.attention, none, 5);
    ck_assert(!broken.pass && broken.first_wrong == 62 * 1024 && broken.checked == v.checked + 512 + 2 * 1024);
    for (int i = Q; i <= DV; i++)
        buffer_free(&t[i]);
}
END_TEST

/*
 * O and lse of a forward step that rounds its weights to 16 bits are further off than a rounding of O: the bounds follow, and are
 * no wider than that. O moves away from 0, against dO, or with it: D moves most.
 */
START_TEST(test_attention_of_given_results)
{
    struct kind kind = attention_backward_kind();
    struct options o = { .is_attention = true, .attention = { 1, 2, 2, 100, 90, 64, true, 0.125f }, .dtype = BF16,
                         .input = "normal", .seed = 1 };
    const struct attention_rounding none = { 0 }, as_tensor_cores = { .weights = true };
    struct run r = { .kind = &kind, .step = &joined_backward, .o = &o, .device = &cpu_device };
    problem_judge(&r, "");
    struct answers a = reference_attention(r.host[Q].data, r.host[K].data, r.host[V].data, BF16, o.attention, as_tensor_cores,
                                           NULL, 200, false);
    for (int64_t i = 0; i < 200 * 64; i++)
        element_set(r.host[O].data, BF16, i, a.want[i] + copysign(0.5 * a.bound[i], element(r.host[DO].data, BF16, i)));
    for (int64_t i = 0; i < 200; i++)
        ((float *)r.host[LSE].data)[i] = (float)(a.lse[i].want + 0.5 * a.lse[i].bound);
    ck_assert(verify_answers(r.host[O].data, r.host[LSE].data, &a).wrong == 0);
    kind.call(&r);
    struct verdict v = kind.verify(&r);
    ck_assert_msg(v.pass, "%s", v.what);
    for (int64_t i = 0; i < 200; i++)
        ((float *)r.host[LSE].data)[i] += 0.01f; /* more than that: weights are off by a hundredth */
    kind.call(&r);
    v = kind.verify(&r);
    ck_assert_msg(v.pass, "%s", v.what);
    struct backward_inputs in = { r.host[Q].data, r.host[K].data, r.host[V].data, r.host[O].data, r.host[LSE].data,
                                  r.host[DO].data, r.host[DLSE].data };
    struct gradients moved = reference_attention_backward(&in, BF16, o.attention, none, 0);
    for (int64_t i = 0; i < 200; i++)
        ((float *)r.host[LSE].data)[i] = (float)a.lse[i].want;
    for (int64_t i = 0; i < 200 * 64; i++)
        element_set(r.host[O].data, BF16, i, a.want[i]);
    struct gradients exact = reference_attention_backward(&in, BF16, o.attention, none, 0);
    double wider = 0, of = 0;
    for (int64_t i = 0; i < 100 * 64; i++)
        wider += moved.dQ_bound[i], of += exact.dQ_bound[i];
    ck_assert_msg(wider > 1.5 * of && wider < 20 * of, "%g, %g", wider, of);
    gradients_free(&moved);
    gradients_free(&exact);
    answers_free(&a);
    problem_free(&r);
}
END_TEST

/*
 * A change so large that sums are beyond fp32, or results beyond fp16, whatever computes them: nothing is wrong, nothing is shown
 * to be right. A finite number is still compared.
 */
START_TEST(test_attention_beyond_its_type)
{
    struct kind kind = attention_backward_kind();
    struct options o = { .is_attention = true, .attention = { 1, 2, 2, 100, 90, 64, true, 0.125f }, .dtype = (enum dtype)_i,
                         .input = "normal", .seed = 1 };
    struct run r = { .kind = &kind, .step = &joined_backward, .o = &o, .device = &cpu_device };
    problem_judge(&r, "");
    for (int64_t i = 0; i < 200 * 64; i++)
        element_set(r.host[DO].data, o.dtype, i, o.dtype == FP16 ? 6e4 : i / 64 % 2 ? 2e38 : -2e38);
    kind.call(&r);
    struct verdict v = kind.verify(&r);
    ck_assert_msg(!v.pass && v.wrong == 0 && v.doubtful > 0 && strstr(v.what, "beyond"), "%s", v.what);
    element_set(r.host[DV].data, o.dtype, 0, 1);
    ck_assert_int_eq(kind.verify(&r).wrong, 1);
    problem_free(&r);
}
END_TEST

/* Scores around -51200, of so many products: docs/numerics.md counts from how many on fp32 does not know the weights. */
START_TEST(test_attention_of_deep_scores)
{
    struct kind kind = attention_backward_kind();
    for (int dim = 27; dim <= 28; dim++) {
        struct options o = { .is_attention = true, .attention = { 1, 1, 1, 64, 64, dim, false, default_scale(dim) },
                             .input = "deep", .seed = 1 };
        struct run r = { .kind = &kind, .step = &joined_backward, .o = &o, .device = &cpu_device };
        struct verdict v = problem_judge(&r, "");
        ck_assert_msg(v.wrong == 0 && v.doubtful == (dim == 27 ? 0 : 64), "heads of %d: %s", dim, v.what);
        problem_free(&r);
    }
}
END_TEST

/* dlse may be left out. */
START_TEST(test_attention_without_dlse)
{
    const struct attention_backward *b = &attention_steps[_i]->backward;
    if (!b->cpu)
        return;
    struct spoilt s = spoilt_new();
    s.in.dlse = NULL;
    b->cpu(s.dQ, s.dK, s.dV, s.in.Q, s.in.K, s.in.V, s.in.O, s.in.lse, s.in.dO, NULL, s.p);
    struct verdict v = verdict_of(&s);
    ck_assert_msg(v.pass, "%s: %s", attention_steps[_i]->name, v.what);
    for (int i = Q; i <= DV; i++)
        buffer_free(&s.t[i]);
}
END_TEST

/* The same on a GPU, in every type. */
START_TEST(test_attention_without_dlse_gpu)
{
    struct kind kind = kind_of_last();
    struct failures f = { 0 };
    struct options o = { .is_attention = true, .attention = { 1, 4, 2, 40, 50, 64, true, 0.125f }, .dtype = (enum dtype)_i,
                         .input = "normal", .seed = 1, .gpu = true };
    if (!dtype_is_chosen(o.dtype))
        return;
    progress(WITHOUT_DLSE, dtype_name(o.dtype));
    for (int i = 0; i < ATTENTION_STEPS; i++) {
        const struct attention_step *s = attention_steps[i];
        struct run r = { .kind = &kind, .step = s, .o = &o, .device = &gpu_device };
        if (!step_is_chosen(s->name) || kind.missing(s, &o, &gpu_device))
            continue;
        problem_judge(&r, s->name);
        void *device = r.tensor[DLSE].data, *host = r.host[DLSE].data;
        r.tensor[DLSE].data = r.host[DLSE].data = NULL;
        problem_run(&r, s->name);
        struct verdict v = kind.verify(&r);
        r.tensor[DLSE].data = device, r.host[DLSE].data = host;
        problem_free(&r);
        char why[480];
        snprintf(why, sizeof why, "%s %s: %s", s->name, dtype_name(o.dtype), v.what);
        add_failure(&f, v.pass ? NULL : why);
    }
    REQUIRE_NONE(f);
}
END_TEST

/*
 * Again and again: dK and dV have the bits of the first run; so has dQ, unless its step adds in any order: it stays within the
 * bounds then. A race shows in one run of many.
 */
static const char *judge_runs(const struct attention_step *s, const struct options *o, int runs)
{
    static char why[480];
    struct kind kind = kind_of_last();
    struct run r = { .kind = &kind, .step = s, .o = o, .device = &gpu_device };
    struct buffer kept[MAX_TENSORS];
    if (kind.missing(s, o, &gpu_device))
        return NULL;
    struct verdict v = problem_judge(&r, s->name);
    for (int i = DQ; i <= DV; i++) {
        kept[i] = buffer_new(r.host[i].bytes, &cpu_device);
        memcpy(kept[i].data, r.host[i].data, kept[i].bytes);
    }
    for (int run = 1; run < runs && v.pass; run++) {
        problem_run(&r, s->name);
        if (run % (runs / 4) == 0)
            v = kind.verify(&r);
        for (int i = s->backward.any_order ? DK : DQ; i <= DV && v.pass; i++)
            if (memcmp(kept[i].data, r.host[i].data, kept[i].bytes)) {
                v.pass = false;
                snprintf(v.what, sizeof v.what, "not the bits of the first run in run %d", run);
            }
    }
    for (int i = DQ; i <= DV; i++)
        buffer_free(&kept[i]);
    problem_free(&r);
    snprintf(why, sizeof why, "%s %s, heads of %d: %s", s->name, dtype_name(o->dtype), (int)o->attention.dim, v.what);
    return v.pass ? NULL : why;
}

static const struct attention many[] = {
    { 3, 8, 4, 300, 391, 64, true, 0.125f }, { 3, 8, 2, 391, 300, 128, false, 0.09f }, { 8, 4, 4, 450, 500, 128, true, 0.09f },
};
enum { MANY = sizeof many / sizeof *many };

START_TEST(test_attention_runs)
{
    struct failures f = { 0 };
    struct options o = { .is_attention = true, .attention = many[_i / 3], .dtype = (enum dtype)(_i % 3), .input = "normal",
                         .gpu = true };
    if (!dtype_is_chosen(o.dtype))
        return;
    for (int i = 0; i < ATTENTION_STEPS; i++)
        if (step_is_chosen(attention_steps[i]->name)) {
            progress(A_THOUSAND_RUNS, attention_steps[i]->name);
            add_failure(&f, judge_runs(attention_steps[i], &o, getenv("TESTS_SMALL") ? 8 : RUNS));
        }
    REQUIRE_NONE(f);
}
END_TEST

/* More threads than heads of K and V: sums are shared. */
START_TEST(test_attention_threads)
{
    struct kind kind = kind_of_last();
    struct failures f = { 0 };
    struct options o = { .is_attention = true, .attention = { 1, 2, 1, 333, 200, 64, true, 0.125f }, .input = "normal" };
    for (int i = 0; i < ATTENTION_STEPS; i++)
        for (int threads = 1; threads <= THREADS_UP_TO(5); threads++) {
            cpu_set_threads(threads);
            add_failure(&f, judge(&kind, attention_steps[i], attention_steps[i]->name, &o, false, "shared heads"));
        }
    REQUIRE_NONE(f);
}
END_TEST

/* Gradients of a problem with 1 to `most` threads: the bits of one thread. */
static void judge_bits(const struct kind *kind, const void *step, const char *name, const struct options *o, int most)
{
    struct run one = { .kind = kind, .step = step, .o = o, .device = &cpu_device };
    if (kind->missing(step, o, &cpu_device))
        return;
    cpu_set_threads(1);
    problem_judge(&one, name);
    for (int threads = 2; threads <= THREADS_UP_TO(most); threads++) {
        struct run some = { .kind = kind, .step = step, .o = o, .device = &cpu_device };
        cpu_set_threads(threads);
        problem_judge(&some, name);
        for (int i = kind->inputs; i < kind->inputs + kind->outputs; i++)
            REQUIRE(memcmp(one.host[i].data, some.host[i].data, one.host[i].bytes) == 0,
                    "%s %s: not the bits of one thread with %d", name, dtype_name(o->dtype), threads);
        problem_free(&some);
    }
    problem_free(&one);
}

/* What lesson 46 promises: bits that do not depend on the threads, in 47 unless some of them share a head of K and V. */
START_TEST(test_bits_of_any_threads)
{
    struct kind softmax = softmax_backward_kind(), attention = kind_of_last();
    enum dtype dtype = (enum dtype)_i;
    struct options rows = { .rows = 7, .cols = 1500, .dtype = dtype, .input = "normal", .seed = 1 };
    struct options heads = { .is_attention = true, .attention = { 2, 4, 2, 150, 130, 40, true, 0.125f }, .dtype = dtype,
                             .input = "normal", .seed = 1 };
    judge_bits(&softmax, &softmax_backward, softmax_backward.name, &rows, 5);
    judge_bits(&attention, &attention_backward, attention_backward.name, &heads, 7);
    judge_bits(&attention, &recomputed_backward, recomputed_backward.name, &heads, 7);
    judge_bits(&attention, &joined_backward, joined_backward.name, &heads, 4);
}
END_TEST

/* Two reads to a write may be faster than a copy's one, three trips for two; a softmax that is faster than a copy is an error. */
START_TEST(test_a_copy_is_no_ceiling_of_three_trips)
{
    const struct kind kinds[] = { softmax_kind, softmax_backward_kind() };
    struct options o = { .rows = 8, .cols = 64 };
    for (int i = 0; i < 2; i++) {
        struct run r = { .kind = &kinds[i], .o = &o };
        struct timing copy = { .median = 2, .p10 = 2 }, time = { .median = 2.7 - 0.9 * (1 - i), .p90 = 2.7 - 0.9 * (1 - i) };
        struct result result = { .device = "none", .time = time };
        kinds[i].measure(&r, &result, &copy);
        ck_assert_msg(fabs(result.percent - 111.1) < 0.1, "%g", result.percent);
        ck_assert_int_eq(above_ceiling(&result), i == 0);
    }
}
END_TEST

Suite *backward_suite(void)
{
    Suite *s = suite_create("backward");
    TCase *reference = tcase_create("reference"), *steps = tcase_create("softmax");
    tcase_add_test(reference, test_softmax_differences);
    tcase_add_loop_test(reference, test_attention_differences, 0, 2 * (int)(sizeof differentiated / sizeof *differentiated));
    suite_add_tcase(s, reference);
    tcase_set_timeout(steps, 120);
    tcase_add_loop_test(steps, test_softmax_steps, 0, SOFTMAX_STEPS);
    tcase_add_loop_test(steps, test_softmax_that_cannot_move, 0, SOFTMAX_STEPS);
    tcase_add_test(steps, test_softmax_verdict);
    tcase_add_test(steps, test_a_copy_is_no_ceiling_of_three_trips);
    suite_add_tcase(s, steps);
    TCase *attention = tcase_create("attention");
    tcase_set_timeout(attention, 300);
    tcase_add_loop_test(attention, test_attention_steps, 0, problem_count());
    tcase_add_test(attention, test_attention_threads);
    tcase_add_loop_test(attention, test_attention_without_dlse, 0, ATTENTION_STEPS);
    tcase_add_test(attention, test_attention_of_given_results);
    tcase_add_loop_test(attention, test_attention_beyond_its_type, FP32, BF16 + 1);
    tcase_add_test(attention, test_attention_of_deep_scores);
    tcase_add_loop_test(attention, test_bits_of_any_threads, FP32, BF16 + 1);
    tcase_add_loop_test(attention, test_attention_verdict, 0, 8);
    if (!getenv("TESTS_SMALL")) /* a minute of double precision under sanitizers, which see it do the same elsewhere */
        tcase_add_test(attention, test_attention_verdict_draws);
    suite_add_tcase(s, attention);
    return s;
}

Suite *backward_gpu_suite(void)
{
    Suite *s = suite_create("backward_gpu");
    TCase *steps = tcase_create("softmax");
    tcase_add_loop_test(steps, test_softmax_steps_gpu, 0, getenv("TESTS_CHECK") ? 0 : SOFTMAX_STEPS);
    suite_add_tcase(s, steps);
    TCase *attention = tcase_create("attention");
    tcase_add_loop_test(attention, test_attention_steps_gpu, 0, check_is_chosen(GRID) ? problem_count() : 0);
    tcase_add_loop_test(attention, test_attention_without_dlse_gpu, 0, check_is_chosen(WITHOUT_DLSE) ? 3 : 0);
    tcase_add_loop_test(attention, test_attention_runs, 0, check_is_chosen(A_THOUSAND_RUNS) ? 3 * MANY : 0);
    suite_add_tcase(s, attention);
    return s;
}

/* common/harness/verify.c must reject: a verdict that lets one of these pass is worth nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "half.h"
#include "suites.h"

enum { ROWS = 9, COLS = 257, COUNT = ROWS * COLS };

static const struct rounding plain = { .lanes = 1 };

/* The right answer, rounded to the type. */
static void answer(void *y, const void *x, enum dtype dtype, int64_t rows, int64_t cols)
{
    double *want = malloc((size_t)cols * sizeof *want);
    for (int64_t row = 0; row < rows; row++) {
        reference_softmax_row(want, (const char *)x + (size_t)(row * cols) * dtype_bytes(dtype), dtype, cols);
        for (int64_t col = 0; col < cols; col++)
            element_set(y, dtype, row * cols + col, (float)want[col]);
    }
    free(want);
}

static float x[COUNT], y[COUNT];

static void setup(void)
{
    input_fill(x, FP32, ROWS, COLS, "normal", 1);
    answer(y, x, FP32, ROWS, COLS);
}

static struct verdict verdict(void)
{
    return verify_softmax(y, x, FP32, ROWS, COLS, plain);
}

static double bound_at(int64_t row, int64_t col)
{
    double want[COLS];
    struct row_facts facts = reference_softmax_row(want, x + row * COLS, FP32, COLS);
    return softmax_bound(want[col], facts.max - x[row * COLS + col], facts.spread, FP32, COLS, plain);
}

/* ---- what must pass */

START_TEST(test_the_answer_passes)
{
    const char *const families[] = { "normal", "rising", "falling", "equal", "peak", "shifted", "far", "masked", "empty", "nan" };
    const enum dtype dtypes[] = { FP32, FP16, BF16 };
    for (size_t f = 0; f < sizeof families / sizeof families[0]; f++)
        for (int t = 0; t < 3; t++)
            for (int64_t cols = 1; cols <= COLS; cols += cols < 4 ? 1 : 84) {
                input_fill(x, dtypes[t], ROWS, cols, families[f], 1);
                answer(y, x, dtypes[t], ROWS, cols);
                struct verdict v = verify_softmax(y, x, dtypes[t], ROWS, cols, plain);
                ck_assert_msg(v.pass && v.wrong == 0 && v.checked == ROWS && v.first_wrong < 0, "%s, %s, %lld columns: %s",
                              families[f], dtype_name(dtypes[t]), (long long)cols, v.what);
            }
}
END_TEST

START_TEST(test_just_inside_the_bound)
{
    for (int64_t i = 0; i < COUNT; i += 97) {
        float right = y[i];
        y[i] = (float)(right + 0.9 * bound_at(i / COLS, i % COLS));
        ck_assert(verdict().pass);
        y[i] = right;
    }
}
END_TEST

/* ---- what must not */

static void assert_caught(int64_t at, float wrong, int64_t how_many)
{
    float right = y[at];
    y[at] = wrong;
    struct verdict v = verdict();
    char place[64];
    snprintf(place, sizeof place, "row %lld, column %lld:", (long long)(at / COLS), (long long)(at % COLS));
    ck_assert_msg(!v.pass, "%g in the place of %g passes", (double)wrong, (double)right);
    ck_assert(v.wrong == how_many && v.first_wrong == at / COLS);
    ck_assert_msg(strstr(v.what, place), "'%s' is not in: %s", place, v.what);
    ck_assert(isnan(wrong) ? isnan(v.error) : !(v.error <= v.tolerance));
    y[at] = right;
}

START_TEST(test_one_wrong_element)
{
    for (int64_t i = 0; i < COUNT; i += 61) {
        double bound = bound_at(i / COLS, i % COLS);
        float right = y[i];
        assert_caught(i, (float)(right + 1.1 * bound + 1e-9 * right), 1);
        assert_caught(i, (float)(right - 1.1 * bound - 1e-9 * right), 1);
        assert_caught(i, NAN, 1);
        assert_caught(i, -NAN, 1);
        assert_caught(i, INFINITY, 1);
        assert_caught(i, -INFINITY, 1);
        assert_caught(i, 0, 1);
        assert_caught(i, -right, 1);
    }
    assert_caught(0, NAN, 1);
    assert_caught(COUNT - 1, NAN, 1);
}
END_TEST

/* A NaN hides nothing: an element that is wrong elsewhere is still counted. */
START_TEST(test_everything_wrong)
{
    static const float all[] = { 0, NAN, INFINITY, 1.0f / COLS, -1 };
    for (size_t a = 0; a < sizeof all / sizeof all[0]; a++) {
        for (int i = 0; i < COUNT; i++)
            y[i] = all[a];
        struct verdict v = verdict();
        ck_assert(!v.pass && v.first_wrong == 0 && v.wrong > COUNT * 9 / 10);
    }
}
END_TEST

START_TEST(test_stale_output)
{
    float other[COUNT];
    input_fill(other, FP32, ROWS, COLS, "normal", 2);
    answer(y, other, FP32, ROWS, COLS); /* right, but of another input */
    ck_assert(!verdict().pass);
    memset(y, 0xff, sizeof y); /* nothing was written */
    ck_assert(!verdict().pass);
}
END_TEST

START_TEST(test_rows_exchanged)
{
    float row[COLS];
    memcpy(row, y, sizeof row);
    memcpy(y, y + COLS, sizeof row);
    memcpy(y + COLS, row, sizeof row);
    struct verdict v = verdict();
    ck_assert(!v.pass && v.first_wrong == 0);
}
END_TEST

/* The whole row scaled: every element is off by the same little. */
START_TEST(test_a_scaled_row)
{
    for (int col = 0; col < COLS; col++)
        y[3 * COLS + col] *= 1.001f;
    struct verdict v = verdict();
    ck_assert(!v.pass && v.first_wrong == 3 && v.wrong == COLS);
}
END_TEST

/* However coarse the arithmetic: what is off by more than half is wrong. */
START_TEST(test_half_is_the_most)
{
    const struct rounding coarse = { .lanes = 1, .unit = 0x1p-8 };
    const float factors[] = { 1.45f, 1.55f };
    for (int i = 0; i < 2; i++) {
        answer(y, x, FP32, ROWS, COLS);
        for (int j = 0; j < COUNT; j++)
            y[j] *= factors[i];
        ck_assert(verify_softmax(y, x, FP32, ROWS, COLS, coarse).pass == (i == 0));
    }
}
END_TEST

START_TEST(test_semantics_of_nan)
{
    float in[2][4] = { { 0, NAN, 1, 2 }, { -INFINITY, -INFINITY, -INFINITY, -INFINITY } };
    float right[4] = { NAN, NAN, NAN, NAN }, zeros[4] = { 0, 0, 0, 0 }, some[4] = { NAN, NAN, NAN, 0 };
    for (int i = 0; i < 2; i++) {
        ck_assert(verify_softmax(right, in[i], FP32, 1, 4, plain).pass);
        ck_assert(!verify_softmax(zeros, in[i], FP32, 1, 4, plain).pass);
        struct verdict v = verify_softmax(some, in[i], FP32, 1, 4, plain);
        ck_assert(!v.pass && v.wrong == 1 && isnan(v.error));
    }
}
END_TEST

START_TEST(test_masked_must_be_zero)
{
    float in[] = { -INFINITY, 0, 0, -INFINITY }, right[] = { 0, 0.5f, 0.5f, 0 }, leak[] = { 1e-20f, 0.5f, 0.5f, 0 };
    ck_assert(verify_softmax(right, in, FP32, 1, 4, plain).pass);
    ck_assert(!verify_softmax(leak, in, FP32, 1, 4, plain).pass);
}
END_TEST

/* ---- large tensors, of which a sample is compared: no row that has gone wrong as a whole may slip through */

enum { MANY = 20000, WIDE = 1024 };

START_TEST(test_large_tensors)
{
    float *in = malloc((size_t)MANY * WIDE * sizeof *in), *out = malloc((size_t)MANY * WIDE * sizeof *out);
    input_fill(in, FP32, MANY, WIDE, "normal", 1);
    for (int64_t i = 0; i < (int64_t)MANY * WIDE; i++) /* all rows equal: one answer is that of all */
        in[i] = in[i % WIDE];
    answer(out, in, FP32, 1, WIDE);
    for (int64_t row = 1; row < MANY; row++)
        memcpy(out + row * WIDE, out, WIDE * sizeof *out);
    struct verdict v = verify_softmax(out, in, FP32, MANY, WIDE, plain);
    ck_assert(v.pass && v.checked == MANY && v.rows == MANY);

    static const int64_t rows[] = { 0, 1, MANY / 3, MANY / 2 + 7, MANY - 2, MANY - 1 };
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        float right = out[rows[r] * WIDE + 77];
        static const float wrong[] = { NAN, INFINITY, 0.5f };
        for (int w = 0; w < 3; w++) {
            out[rows[r] * WIDE + 77] = wrong[w];
            v = verify_softmax(out, in, FP32, MANY, WIDE, plain);
            ck_assert_msg(!v.pass && v.first_wrong == rows[r], "%g in row %lld of %d passes", (double)wrong[w],
                          (long long)rows[r], MANY);
        }
        out[rows[r] * WIDE + 77] = right;
    }
    memset(out + 4321 * WIDE, 0, WIDE * sizeof *out);
    ck_assert(!verify_softmax(out, in, FP32, MANY, WIDE, plain).pass);
    free(in);
    free(out);
}
END_TEST

/* 2^25 equal numbers in fp16: each result is half of the smallest number
   that there is, and rounds to 0. Nobody can say who is right. */
START_TEST(test_softmax_in_doubt)
{
    const int64_t cols = 1 << 25;
    fp16 *in = calloc((size_t)cols, sizeof *in), *out = malloc((size_t)cols * sizeof *out);
    for (int last = 0; last < 3; last++) {
        for (int64_t i = 0; i < cols; i++)
            out[i].bits = last == 1 ? 0 : 1;
        out[cols - 1].bits = last == 2 ? 0x3c00 : out[0].bits; /* 1 */
        struct verdict v = verify_softmax(out, in, FP16, 1, cols, (struct rounding){ .lanes = 1024 });
        ck_assert(!v.pass && v.doubtful == 1 && v.wrong == (last == 2) && v.checked == 1);
        ck_assert_str_eq(verdict_word(&v), last == 2 ? "FAIL" : "in doubt");
        ck_assert(strstr(v.what, last == 2 ? "got 1," : "zeros would pass"));
    }
    free(in);
    free(out);
}
END_TEST

/* ---- the bound itself */

START_TEST(test_bound_grows_with_what_it_is_made_of)
{
    struct rounding blocks = { .lanes = 16, .block = 256 }, half = { .unit = 0x1p-11 };
    double base = softmax_bound(0.1, 1, 1, FP32, 1000, plain);
    ck_assert(base > 0 && base < 0.1 * 1e-3);
    ck_assert(softmax_bound(0.1, 50, 1, FP32, 1000, plain) > base);
    ck_assert(softmax_bound(0.1, 1, 5, FP32, 1000, plain) > base);
    ck_assert(softmax_bound(0.1, 1, 1, FP32, 2000, plain) > base);
    ck_assert(softmax_bound(0.1, 1, 1, FP32, 1000, blocks) < base);
    ck_assert(softmax_bound(0.1, 1, 1, FP32, 1 << 24, blocks) == softmax_bound(0.1, 1, 1, FP32, 1 << 20, blocks));
    ck_assert(softmax_bound(0.1, 1, 1, FP32, 1000, half) > base);
    ck_assert(softmax_bound(0.1, 1, 1, FP16, 1000, plain) > base + 0.1 * 0x1p-12);
    ck_assert(softmax_bound(0, INFINITY, 1, FP32, 1000, plain) < 1e-37); /* a masked element is 0, and no NaN in sight */
}
END_TEST

/* ---- attention */

/* Q, K and V; and O and lse, which are right as far as their types allow. */
struct case_of_attention {
    struct attention p;
    enum dtype dtype;
    struct attention_rounding how;
    struct qkv t;
    struct answers a;
    void *O;
    float *lse;
};

static void case_answers(struct case_of_attention *c)
{
    answers_free(&c->a);
    c->a = reference_attention(c->t.q.data, c->t.k.data, c->t.v.data, c->dtype, c->p, c->how, NULL,
                               c->p.batch * c->p.heads * c->p.seq_q, false);
    for (int64_t i = 0; i < c->a.count * c->p.dim; i++)
        element_set(c->O, c->dtype, i, (float)c->a.want[i]);
    for (int64_t row = 0; row < c->a.count; row++)
        c->lse[row] = (float)c->a.lse[row].want;
}

/* scale: times 1 / sqrt(dim); offset: the first coordinate of all queries, and of no key but by its normal numbers. */
static struct case_of_attention case_of(struct attention p, enum dtype dtype, const char *family, float scale, float offset)
{
    struct options o = { .is_attention = true, .attention = p, .dtype = dtype, .input = family, .seed = 1 };
    struct case_of_attention c = { .dtype = dtype, .how = { .weights = dtype != FP32 }, .t = input_qkv(&o) };
    c.p = o.attention;
    c.p.scale = scale / sqrtf((float)p.dim);
    for (int64_t row = 0; offset != 0 && row < p.batch * p.heads * p.seq_q; row++)
        element_set(c.t.q.data, dtype, row * p.dim, offset);
    c.O = malloc(c.t.q.bytes);
    c.lse = malloc((size_t)(p.batch * p.heads * p.seq_q) * sizeof(float));
    case_answers(&c);
    return c;
}

static void case_end(struct case_of_attention *c)
{
    answers_free(&c->a);
    buffer_free(&c->t.q), buffer_free(&c->t.k), buffer_free(&c->t.v);
    free(c->O), free(c->lse);
}

static struct verdict case_verdict(const struct case_of_attention *c)
{
    return verify_answers(c->O, c->lse, &c->a);
}

static const struct attention plain_problem = { 1, 2, 1, 40, 200, 64, false, 0 };
static const struct attention causal_problem = { 1, 2, 2, 60, 90, 32, true, 0 };

/* What somebody might put in the place of O, and how likely a verdict would let it pass: lse stays right. */
enum made_up { ZEROS, A_NUMBER, LARGE_NUMBER, MEAN, FIRST_VALUE, LAST_VALUE, OTHER_ROW, NOISE, HALF, MADE_UP };
static const char *const made_up_names[] = { "zeros",          "0.01",        "-1000", "the mean of V", "the first value",
                                             "the last value", "another row", "noise", "half of it" };

static void make_up(struct case_of_attention *c, enum made_up kind)
{
    struct attention p = c->p;
    for (int64_t row = 0; row < c->a.count; row++) {
        int64_t visible = attention_visible(p, row % p.seq_q), kv = attention_kv_head(p, row / p.seq_q) * p.seq_k;
        for (int64_t i = 0; i < p.dim; i++) {
            double mean = 0, x = 0;
            for (int64_t key = 0; key < visible && kind == MEAN; key++)
                mean += element(c->t.v.data, c->dtype, (kv + key) * p.dim + i) / (double)visible;
            switch (kind) {
            case ZEROS: break;
            case A_NUMBER: x = 0.01; break;
            case LARGE_NUMBER: x = -1000; break;
            case MEAN: x = mean; break;
            case FIRST_VALUE: x = element(c->t.v.data, c->dtype, kv * p.dim + i); break;
            case LAST_VALUE: x = element(c->t.v.data, c->dtype, (kv + visible - 1) * p.dim + i); break;
            case OTHER_ROW: x = c->a.want[(row + 1) % c->a.count * p.dim + i]; break;
            case NOISE: x = (double)(random_bits(3, (uint64_t)(row * p.dim + i)) >> 40) * 0x1p-23 - 1; break;
            default: x = c->a.want[row * p.dim + i] / 2;
            }
            element_set(c->O, c->dtype, row * p.dim + i, (float)x);
        }
    }
}

static const char *const families_of_attention[] = { "normal",      "uniform", "rising", "falling",
                                                     "adversarial", "equal",   "peak",   "large" };
enum { FAMILIES = sizeof families_of_attention / sizeof families_of_attention[0], SCALES = 12 };
static const float scales[SCALES] = { 1, 0, -1, 0.25f, 4, 16, 64, 256, 1e3f, 1e4f, 1e6f, 1e30f };
static const float offsets[] = { 10, 1e3f, 1e4f, 1e5f, 1e6f, 1e7f, 1e20f, 3e38f };

/* Whether O is what it must be, to 1 % of the largest value: at a scale
   of 0 the mean is, and with one key above all others that key's. */
static bool is_right(const struct case_of_attention *c)
{
    double largest = 0, error = 0;
    for (int64_t i = 0; i < c->p.batch * c->p.kv_heads * c->p.dim; i++)
        largest = fmax(largest, c->a.largest[i]);
    for (int64_t i = 0; i < c->a.count * c->p.dim; i++)
        error = fmax(error, fabs(element(c->O, c->dtype, i) - c->a.want[i]));
    return error <= 0.01 * largest;
}

/* The right O passes, or is in doubt; nothing made up passes, unless it is right. */
static void assert_judged(struct case_of_attention *c, const char *family, float scale, float offset, bool must_pass)
{
    struct verdict v = case_verdict(c);
    ck_assert_msg(v.wrong == 0 && v.pass == !v.doubtful && (v.pass || !must_pass), "%s %s, scale %g, offset %g: %s",
                  dtype_name(c->dtype), family, (double)scale, (double)offset, v.what);
    for (int kind = 0; kind < MADE_UP; kind++) {
        make_up(c, (enum made_up)kind);
        v = case_verdict(c);
        ck_assert_msg(!v.pass || is_right(c), "%s %s, scale %g, offset %g: %s passes", dtype_name(c->dtype), family,
                      (double)scale, (double)offset, made_up_names[kind]);
        /* further away than any value: always wrong, whatever the doubt, but for infinite scores */
        if (kind == LARGE_NUMBER && v.wrong == 0)
            ck_assert_msg(v.doubtful && strstr(v.what, "beyond fp32"), "%s %s, scale %g, offset %g: -1000 is not wrong",
                          dtype_name(c->dtype), family, (double)scale, (double)offset);
    }
}

START_TEST(test_nothing_made_up_passes)
{
    enum dtype dtype = (enum dtype)(_i % 3);
    const char *family = families_of_attention[_i / 3];
    for (int s = 0; s < 2 * SCALES; s++) {
        struct case_of_attention c = case_of(s % 2 ? causal_problem : plain_problem, dtype, family, scales[s / 2], 0);
        assert_judged(&c, family, scales[s / 2], 0, fabsf(scales[s / 2]) <= 64);
        case_end(&c);
    }
}
END_TEST

START_TEST(test_nothing_made_up_passes_at_offsets)
{
    enum dtype dtype = (enum dtype)_i;
    for (size_t at = 0; at < 2 * sizeof offsets / sizeof offsets[0]; at++) {
        float offset = offsets[at / 2];
        if (dtype == FP16 && offset > 65504)
            continue;
        struct case_of_attention c = case_of(at % 2 ? causal_problem : plain_problem, dtype, "normal", 1, offset);
        assert_judged(&c, "normal", 1, offset, offset <= 10);
        case_end(&c);
    }
}
END_TEST

/* Equal keys: all weights are equal, but where scores are in the millions fp32 does not know it. */
START_TEST(test_scores_in_doubt)
{
    struct case_of_attention c = case_of(plain_problem, FP32, "equal", 1e6f, 0);
    struct verdict v = case_verdict(&c);
    ck_assert(!v.pass && v.wrong == 0 && v.doubtful > 0 && strcmp(verdict_word(&v), "in doubt") == 0 &&
              strstr(v.what, "cannot tell the weights"));
    element_set(c.O, FP32, 5, 100);
    v = case_verdict(&c);
    ck_assert(!v.pass && v.wrong == 1 && strcmp(verdict_word(&v), "FAIL") == 0 && strstr(v.what, "got 100"));
    case_end(&c);
}
END_TEST

/* Scores are rounded to 16 bits only where a step says so. */
START_TEST(test_rounding_of_scores)
{
    struct case_of_attention c = case_of(plain_problem, BF16, "normal", 4, 0);
    double before = c.a.bound[3];
    c.how.scores = true;
    case_answers(&c);
    ck_assert(c.a.bound[3] > 2 * before);
    c.how = (struct attention_rounding){ 0 };
    case_answers(&c);
    ck_assert(c.a.bound[3] < before);
    case_end(&c);
}
END_TEST

/* The sum of weights times V, before it is divided, may leave fp32, and then inf or NaN come out: no error, but no pass. */
START_TEST(test_range_of_values)
{
    static const float broken[] = { INFINITY, -INFINITY, NAN };
    for (int at = 0; at < 3; at++) {
        struct case_of_attention c = case_of(plain_problem, FP32, "normal", 1, 0);
        ((float *)c.t.v.data)[7 * c.p.dim + 3] = 2e36f; /* times 200 keys: beyond */
        case_answers(&c);
        ck_assert(case_verdict(&c).pass);
        ((float *)c.O)[9 * c.p.dim + 3] = broken[at];
        struct verdict v = case_verdict(&c);
        ck_assert(!v.pass && v.wrong == 0 && v.doubtful == 1 && strstr(v.what, "row 9: V is so large"));
        ((float *)c.O)[9 * c.p.dim + 3] = -3e38f; /* finite, and nothing like a mean of V */
        ck_assert(case_verdict(&c).wrong == 1);
        ((float *)c.t.v.data)[7 * c.p.dim + 3] = 1.6e36f; /* times 200 keys: within */
        case_answers(&c);
        ((float *)c.O)[9 * c.p.dim + 3] = broken[at];
        ck_assert(case_verdict(&c).wrong == 1);
        case_end(&c);
    }
}
END_TEST

/* Where V is not finite at a key that is seen: finite numbers are
   wrong; another NaN or inf only where the key's weight may be lost. */
START_TEST(test_values_that_are_not_finite)
{
    struct attention p = { 1, 1, 1, 1, 2, 2, false, 1 };
    float q[] = { 1, 0 }, k[] = { 0, 0, -1, 0 }, v[] = { 1, 1, NAN, INFINITY }, O[2], want[] = { NAN, INFINITY };
    for (int lost = 0; lost < 2; lost++) {
        k[2] = lost ? -800 : -1;
        for (int i = 0; i < 2; i++)
            for (int got = 0; got < 4; got++) {
                static const float all[] = { NAN, INFINITY, -INFINITY, 1 };
                memcpy(O, want, sizeof O);
                O[i] = all[got];
                bool right = got == i || (lost && i == 1 && got < 3);
                struct verdict verdict = verify_attention(O, NULL, q, k, v, FP32, p, (struct attention_rounding){ 0 }, 1, false);
                ck_assert_msg(verdict.pass == right, "%g in place %d, lost %d: %s", (double)all[got], i, lost, verdict.what);
            }
    }
}
END_TEST

START_TEST(test_wrong_lse)
{
    struct case_of_attention c = case_of(causal_problem, BF16, "normal", 1, 0);
    ck_assert(case_verdict(&c).pass);
    for (int64_t row = 0; row < c.a.count; row += 7) {
        float right = c.lse[row], wrong[] = { 0, NAN, INFINITY, -INFINITY, right + 1e-3f, right * 1.4427f };
        for (size_t w = 0; w < sizeof wrong / sizeof wrong[0]; w++) {
            c.lse[row] = wrong[w];
            struct verdict v = case_verdict(&c);
            ck_assert(!v.pass && v.wrong == 1 && v.first_wrong == row && strstr(v.what, "lse"));
        }
        c.lse[row] = right;
    }
    case_end(&c);
}
END_TEST

/* One wrong row of thousands, wherever it is, wrong by little. */
START_TEST(test_every_row_is_compared)
{
    struct case_of_attention c = case_of((struct attention){ 1, 4, 2, 1024, 1024, 16, true, 0 }, FP32, "normal", 1, 0);
    struct verdict v = verify_attention(c.O, c.lse, c.t.q.data, c.t.k.data, c.t.v.data, FP32, c.p, c.how, 1, false);
    ck_assert(v.pass && v.checked == 4096 && v.rows == 4096 && strcmp(verdict_coverage(&v), "all 4096 rows compared") == 0);
    for (int64_t row = 1; row < 4096; row += 819) {
        float right = ((float *)c.O)[row * 16 + 5];
        ((float *)c.O)[row * 16 + 5] = right + 0.01f;
        v = case_verdict(&c);
        ck_assert(!v.pass && v.wrong == 1 && v.first_wrong == row);
        ((float *)c.O)[row * 16 + 5] = right;
    }
    case_end(&c);
}
END_TEST

/* Of what is too much, rows at random: others with another seed, but always the first, the last, and some that are not finite. */
START_TEST(test_a_sample)
{
    struct case_of_attention c = case_of((struct attention){ 2, 2, 1, 500, 30, 8, false, 0 }, FP32, "normal", 1, 0);
    const int64_t rows = 2000;
    int found = 0, places = 0;
    for (int64_t row = 0; row < rows; row += row < 3 || row > rows - 4 ? 1 : 111) {
        float right = ((float *)c.O)[row * 8];
        for (uint64_t seed = 1; seed <= 20; seed++) {
            ((float *)c.O)[row * 8] = right + 1;
            struct verdict v = verify_attention_rows(c.O, c.lse, c.t.q.data, c.t.k.data, c.t.v.data, FP32, c.p, c.how, 500, seed,
                                                     false);
            ck_assert(v.rows == rows && v.checked > 350 && v.checked < 650 && v.seed == seed && v.pass == !v.wrong);
            char text[64];
            snprintf(text, sizeof text, "%lld of 2000 rows compared, sample seed %d", (long long)v.checked, (int)seed);
            ck_assert_str_eq(verdict_coverage(&v), text);
            if (row == 0 || row == rows - 1)
                ck_assert(!v.pass);
            else
                found += !v.pass, places++;
            ((float *)c.O)[row * 8] = NAN;
            ck_assert(!verify_attention_rows(c.O, c.lse, c.t.q.data, c.t.k.data, c.t.v.data, FP32, c.p, c.how, 500, seed,
                                             false).pass);
        }
        ((float *)c.O)[row * 8] = right;
    }
    ck_assert_msg(found > places / 6 && found < places / 3, "%d of %d found; about a quarter of all rows is compared", found,
                  places);
    case_end(&c);
}
END_TEST

START_TEST(test_fresh_seeds)
{
    uint64_t first = fresh_seed(), again = first;
    for (int i = 0; i < 100 && again == first; i++)
        again = fresh_seed();
    ck_assert(again != first);
}
END_TEST

Suite *verify_suite(void)
{
    Suite *suite = suite_create("verify");
    TCase *passes = tcase_create("passes"), *rejects = tcase_create("rejects"), *large = tcase_create("large");
    tcase_add_checked_fixture(passes, setup, NULL);
    tcase_set_timeout(passes, 60);
    tcase_add_test(passes, test_the_answer_passes);
    tcase_add_test(passes, test_just_inside_the_bound);
    tcase_add_test(passes, test_bound_grows_with_what_it_is_made_of);
    suite_add_tcase(suite, passes);

    tcase_add_checked_fixture(rejects, setup, NULL);
    tcase_set_timeout(rejects, 60);
    tcase_add_test(rejects, test_one_wrong_element);
    tcase_add_test(rejects, test_everything_wrong);
    tcase_add_test(rejects, test_stale_output);
    tcase_add_test(rejects, test_rows_exchanged);
    tcase_add_test(rejects, test_a_scaled_row);
    tcase_add_test(rejects, test_half_is_the_most);
    tcase_add_test(rejects, test_semantics_of_nan);
    tcase_add_test(rejects, test_masked_must_be_zero);
    suite_add_tcase(suite, rejects);

    TCase *attention = tcase_create("attention");
    tcase_set_timeout(attention, 120);
    tcase_add_loop_test(attention, test_nothing_made_up_passes, 0, 3 * FAMILIES);
    tcase_add_loop_test(attention, test_nothing_made_up_passes_at_offsets, 0, 3);
    tcase_add_test(attention, test_scores_in_doubt);
    tcase_add_test(attention, test_rounding_of_scores);
    tcase_add_test(attention, test_range_of_values);
    tcase_add_test(attention, test_values_that_are_not_finite);
    tcase_add_test(attention, test_wrong_lse);
    tcase_add_test(attention, test_every_row_is_compared);
    tcase_add_test(attention, test_a_sample);
    tcase_add_test(attention, test_fresh_seeds);
    suite_add_tcase(suite, attention);

    tcase_set_timeout(large, 60);
    tcase_add_test(large, test_large_tensors);
    tcase_add_test(large, test_softmax_in_doubt);
    suite_add_tcase(suite, large);
    return suite;
}

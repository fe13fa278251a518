/* common/harness/reference.c against answers that are known without it. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "half.h"
#include "suites.h"

static bool near(double a, double b)
{
    return fabs(a - b) <= 4 * DBL_EPSILON * fabs(b);
}

START_TEST(test_equal_numbers)
{
    for (int64_t cols = 1; cols <= 1000; cols += 37) {
        float x[1000];
        double want[1000];
        for (int i = 0; i < cols; i++)
            x[i] = -7.25f;
        struct row_facts facts = reference_softmax_row(want, x, FP32, cols);
        ck_assert(facts.max == -7.25 && facts.spread == 0);
        for (int i = 0; i < cols; i++)
            ck_assert(near(want[i], 1.0 / (double)cols));
    }
}
END_TEST

/* exp(log 1), exp(log 2), ... are 1, 2, ...: the quotients are rational. */
START_TEST(test_logarithms)
{
    double x[8], want[8], spread = 0;
    for (int i = 0; i < 8; i++)
        x[i] = log(i + 1) + 300; /* exp would overflow a float */
    struct row_facts facts = reference_softmax_row(want, x, FP64, 8);
    for (int i = 0; i < 8; i++) {
        ck_assert(fabs(want[i] - (i + 1) / 36.0) < 1e-13);
        spread += (i + 1) / 36.0 * log(8.0 / (i + 1));
    }
    ck_assert(facts.max == x[7] && fabs(facts.spread - spread) < 1e-12);
}
END_TEST

START_TEST(test_a_geometric_row)
{
    enum { N = 200 };
    float x[N];
    double want[N];
    for (int i = 0; i < N; i++)
        x[i] = -(float)i;
    reference_softmax_row(want, x, FP32, N);
    double first = (1 - exp(-1)) / (1 - exp(-N)); /* 1 + e^-1 + e^-2 + ... in closed form */
    for (int i = 0; i < N; i++)
        ck_assert(fabs(want[i] / (first * exp(-i)) - 1) < 1e-13);
}
END_TEST

START_TEST(test_element_types)
{
    float x[] = { 0.5f, -2, 3, 1.25f };
    fp16 half[4];
    bf16 brain[4];
    double wide[4], a[4], b[4];
    for (int i = 0; i < 4; i++) {
        half[i] = float_to_fp16(x[i]);
        brain[i] = float_to_bf16(x[i]);
        wide[i] = x[i];
    }
    reference_softmax_row(a, x, FP32, 4);
    const void *others[] = { half, brain, wide };
    const enum dtype dtypes[] = { FP16, BF16, FP64 };
    for (int t = 0; t < 3; t++) {
        reference_softmax_row(b, others[t], dtypes[t], 4);
        for (int i = 0; i < 4; i++)
            ck_assert(a[i] == b[i] && element(others[t], dtypes[t], i) == x[i]);
    }
}
END_TEST

START_TEST(test_masked_numbers_are_exactly_zero)
{
    float x[] = { -INFINITY, 1, -INFINITY, 1 };
    double want[4];
    struct row_facts facts = reference_softmax_row(want, x, FP32, 4);
    ck_assert(want[0] == 0 && want[1] == 0.5 && want[2] == 0 && want[3] == 0.5);
    ck_assert(facts.max == 1 && facts.spread == 0);
}
END_TEST

/* All -inf, a NaN anywhere, a +inf anywhere: every element is NaN. */
START_TEST(test_rows_without_a_softmax)
{
    static const float rows[][3] = {
        { -INFINITY, -INFINITY, -INFINITY },
        { NAN, 0, 1 },
        { 0, NAN, 1 },
        { 0, 1, NAN },
        { -INFINITY, NAN, -INFINITY },
        { INFINITY, 0, 1 },
        { 0, 1, INFINITY },
        { INFINITY, INFINITY, -INFINITY },
        { INFINITY, NAN, 0 },
    };
    double want[3];
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        reference_softmax_row(want, rows[r], FP32, 3);
        ck_assert(isnan(want[0]) && isnan(want[1]) && isnan(want[2]));
    }
}
END_TEST

START_TEST(test_largest_floats)
{
    float x[] = { FLT_MAX, -FLT_MAX, FLT_MAX };
    double want[3];
    reference_softmax_row(want, x, FP32, 3);
    ck_assert(want[0] == 0.5 && want[1] == 0 && want[2] == 0.5);
}
END_TEST

/* ---- attention */

enum { DIM = 6, KEYS = 11 };

/* What a query that sees the first `visible` keys must get. */
struct row {
    double want[DIM], bound[DIM];
    struct lse lse;
    enum doubt doubt;
};

/* Causal, with one query more than keys: query i sees i keys. Only that row is computed. */
static struct row attend_scaled(const float *q, const float *K, const float *V, int64_t visible, float scale, enum dtype dtype)
{
    struct attention p = { 1, 1, 1, KEYS + 1, KEYS, DIM, true, scale };
    float Q[(KEYS + 1) * DIM], narrow[3][(KEYS + 1) * DIM];
    const float *all[] = { Q, K, V };
    for (int i = 0; i < (KEYS + 1) * DIM; i++)
        Q[i] = i / DIM == visible ? q[i % DIM] : NAN; /* no other query is looked at */
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < (t ? KEYS : KEYS + 1) * DIM; i++)
            element_set(narrow[t], dtype, i, all[t][i]);
    struct attention_rounding how = { .weights = dtype != FP32 };
    struct answers a = reference_attention(narrow[0], narrow[1], narrow[2], dtype, p, how, &visible, 1, false);
    struct row r = { .lse = a.lse[0], .doubt = a.doubt[0] };
    memcpy(r.want, a.want, sizeof r.want);
    memcpy(r.bound, a.bound, sizeof r.bound);
    answers_free(&a);
    return r;
}

static struct row attend(const float *q, const float *K, const float *V, int64_t visible)
{
    return attend_scaled(q, K, V, visible, 0.5f, FP32);
}

/* Equal keys: the mean of V, and lse = score + log(keys). One key: its value. */
START_TEST(test_attention_to_equal_keys)
{
    float q[DIM], K[KEYS * DIM], V[KEYS * DIM];
    for (int i = 0; i < KEYS * DIM; i++) {
        q[i % DIM] = K[i] = (float)(i % DIM);
        V[i] = (float)(i * i % 17);
    }
    for (int visible = 1; visible <= KEYS; visible++) {
        struct row r = attend(q, K, V, visible);
        ck_assert(fabs(r.lse.want - (0.5 * (1 + 4 + 9 + 16 + 25) + log(visible))) < 1e-12 && r.lse.bound > 0 &&
                  r.lse.bound < 1e-4);
        ck_assert(r.doubt == NO_DOUBT);
        for (int i = 0; i < DIM; i++) {
            double mean = 0;
            for (int key = 0; key < visible; key++)
                mean += (double)V[key * DIM + i] / visible;
            ck_assert(fabs(r.want[i] - mean) < 1e-12 && r.bound[i] > 0 && r.bound[i] < 1e-2);
        }
    }
}
END_TEST

/* Scores log 1, log 2, ...: weights 1/66, 2/66, ... */
START_TEST(test_attention_with_rational_weights)
{
    float q[DIM] = { 2 }, K[KEYS * DIM] = { 0 }, V[KEYS * DIM] = { 0 };
    for (int key = 0; key < KEYS; key++) {
        K[key * DIM] = (float)log(key + 1);
        V[key * DIM + key % DIM] = 1;
    }
    struct row r = attend(q, K, V, KEYS);
    ck_assert(fabs(r.lse.want - log(66)) < 1e-6); /* the logarithms are rounded to floats */
    for (int i = 0; i < DIM; i++)
        ck_assert(fabs(r.want[i] - (i + 1 + (i + DIM < KEYS ? i + DIM + 1 : 0)) / 66.0) < 1e-6);
}
END_TEST

static void assert_nothing(struct row r)
{
    ck_assert(r.lse.want == -INFINITY && r.lse.bound == 0 && r.doubt == NO_DOUBT);
    for (int i = 0; i < DIM; i++)
        ck_assert(r.want[i] == 0 && r.bound[i] == 0);
}

/* No key that is seen, or none but of score -inf: by a key of -inf, or one of +inf and a negative scale, or query. */
START_TEST(test_attention_to_nothing)
{
    float zeros[KEYS * DIM] = { 0 }, q[DIM] = { 1 }, K[KEYS * DIM] = { 0 }, V[KEYS * DIM];
    for (int i = 0; i < KEYS * DIM; i++)
        V[i] = 1;
    assert_nothing(attend(zeros, zeros, zeros, 0));
    static const struct { float key, scale, query; } cases[] = {
        { -INFINITY, 0.5f, 1 }, { INFINITY, -0.5f, 1 }, { INFINITY, 0.5f, -1 },
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        q[0] = cases[c].query;
        for (int key = 0; key < KEYS; key++)
            K[key * DIM] = cases[c].key;
        assert_nothing(attend_scaled(q, K, V, 3, cases[c].scale, FP32));
        K[DIM] = 0; /* the second key: all the weight */
        struct row r = attend_scaled(q, K, V, 3, cases[c].scale, FP32);
        ck_assert(r.lse.want == 0 && r.want[0] == 1 && r.want[DIM - 1] == 1 && r.doubt == NO_DOUBT);
    }
}
END_TEST

static bool all_nan(struct row r)
{
    for (int i = 0; i < DIM; i++)
        if (!isnan(r.want[i]))
            return false;
    return isnan(r.lse.want);
}

/* In the query or in a key that is seen: all NaN; in a key that is not: nothing. A score of +inf likewise. */
START_TEST(test_attention_to_nan)
{
    static const float broken[] = { NAN, INFINITY };
    for (int b = 0; b < 2; b++) {
        float q[DIM] = { 1, 2, 3 }, K[KEYS * DIM] = { 0 }, V[KEYS * DIM] = { 0 };
        K[5 * DIM] = broken[b];
        ck_assert(!isnan(attend(q, K, V, 5).lse.want) && !isnan(attend(q, K, V, 5).want[0]));
        ck_assert(all_nan(attend(q, K, V, 6)));
        q[2] = NAN;
        ck_assert(all_nan(attend(q, K, V, 5)));
    }
}
END_TEST

/* A visible key takes part however small its weight is: exp(-800) is 0 in double, and 0 * NaN and 0 * inf are NaN. */
START_TEST(test_attention_to_values_that_are_not_finite)
{
    static const float scores[] = { -1, -20, -100, -800 };
    for (int s = 0; s < 4; s++)
        for (int dtype = FP32; dtype <= BF16; dtype++) {
            float q[DIM] = { 2 }, K[KEYS * DIM] = { 0 }, V[KEYS * DIM] = { 0 };
            K[2 * DIM] = scores[s];
            V[2 * DIM + 1] = NAN, V[2 * DIM + 2] = INFINITY, V[2 * DIM + 3] = -INFINITY;
            V[5 * DIM] = NAN; /* not seen */
            struct row r = attend_scaled(q, K, V, 4, 0.5f, (enum dtype)dtype);
            ck_assert(isnan(r.want[1]) && r.bound[1] == 0 && r.want[0] == 0 && r.want[4] == 0 && !isnan(r.lse.want));
            bool lost = s > 1 || (s == 1 && dtype == FP16); /* fp16 ends at 2^-25, exp(-17); the others' weights at exp(-87) */
            if (lost)
                ck_assert(isnan(r.want[2]) && isinf(r.bound[2]) && isnan(r.want[3]) && isinf(r.bound[3]));
            else
                ck_assert(r.want[2] == INFINITY && r.bound[2] == 0 && r.want[3] == -INFINITY && r.bound[3] == 0);
        }
}
END_TEST

/* Products that are beyond fp32, or become so by the scale: nobody can say what fp32 makes of them. */
START_TEST(test_scores_beyond_fp32)
{
    float q[DIM] = { 1e20f, 1e20f }, K[KEYS * DIM] = { 0 }, V[KEYS * DIM] = { 0 };
    K[0] = 1e20f, K[1] = -1e20f;
    ck_assert(attend(q, K, V, 3).doubt == OVERFLOW_OF_S);
    K[1] = 0;
    ck_assert(attend(q, K, V, 3).doubt == OVERFLOW_OF_S && attend_scaled(q, K, V, 3, -1, FP32).doubt == OVERFLOW_OF_S);
    K[0] = 1e18f, K[1] = 0; /* q k fits */
    ck_assert(attend(q, K, V, 3).doubt == NO_DOUBT);
    ck_assert(attend_scaled(q, K, V, 3, 1e3f, FP32).doubt == OVERFLOW_OF_S);
    K[0] = 1e20f; /* q k does not, scale q k does */
    ck_assert(attend_scaled(q, K, V, 3, 1e-10f, FP32).doubt == OVERFLOW_OF_S);
}
END_TEST

Suite *reference_suite(void)
{
    Suite *suite = suite_create("reference");
    TCase *known = tcase_create("known");
    tcase_add_test(known, test_equal_numbers);
    tcase_add_test(known, test_logarithms);
    tcase_add_test(known, test_a_geometric_row);
    tcase_add_test(known, test_element_types);
    suite_add_tcase(suite, known);

    TCase *limits = tcase_create("limits");
    tcase_add_test(limits, test_masked_numbers_are_exactly_zero);
    tcase_add_test(limits, test_rows_without_a_softmax);
    tcase_add_test(limits, test_largest_floats);
    suite_add_tcase(suite, limits);

    TCase *attention = tcase_create("attention");
    tcase_add_test(attention, test_attention_to_equal_keys);
    tcase_add_test(attention, test_attention_with_rational_weights);
    tcase_add_test(attention, test_attention_to_nothing);
    tcase_add_test(attention, test_attention_to_nan);
    tcase_add_test(attention, test_attention_to_values_that_are_not_finite);
    tcase_add_test(attention, test_scores_beyond_fp32);
    suite_add_tcase(suite, attention);
    return suite;
}

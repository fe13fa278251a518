/* common/reference.c against answers that are known without it. */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "common.h"
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

static struct lse attend(double *want, double *bound, const float *q, const float *K, const float *V, int64_t visible)
{
    double scratch[2 * KEYS];
    struct attention_row row = { q, K, V, FP32, visible, DIM, 0.5 };
    return reference_attention_row(want, bound, scratch, row, (struct attention_rounding){ 0 });
}

/* Equal keys: the mean of V, and lse = score + log(keys). One key: its value. */
START_TEST(test_attention_to_equal_keys)
{
    float q[DIM], K[KEYS * DIM], V[KEYS * DIM];
    double want[DIM], bound[DIM];
    for (int i = 0; i < KEYS * DIM; i++) {
        q[i % DIM] = K[i] = (float)(i % DIM);
        V[i] = (float)(i * i % 17);
    }
    for (int visible = 1; visible <= KEYS; visible++) {
        struct lse lse = attend(want, bound, q, K, V, visible);
        ck_assert(fabs(lse.want - (0.5 * (1 + 4 + 9 + 16 + 25) + log(visible))) < 1e-12 && lse.bound > 0 && lse.bound < 1e-4);
        for (int i = 0; i < DIM; i++) {
            double mean = 0;
            for (int key = 0; key < visible; key++)
                mean += (double)V[key * DIM + i] / visible;
            ck_assert(fabs(want[i] - mean) < 1e-12 && bound[i] > 0 && bound[i] < 1e-2);
        }
    }
}
END_TEST

/* Scores log 1, log 2, ...: weights 1/66, 2/66, ... */
START_TEST(test_attention_with_rational_weights)
{
    float q[DIM] = { 2 }, K[KEYS * DIM] = { 0 }, V[KEYS * DIM] = { 0 };
    double want[DIM], bound[DIM];
    for (int key = 0; key < KEYS; key++) {
        K[key * DIM] = (float)log(key + 1);
        V[key * DIM + key % DIM] = 1;
    }
    struct lse lse = attend(want, bound, q, K, V, KEYS);
    ck_assert(fabs(lse.want - log(66)) < 1e-6); /* the logarithms are rounded to floats */
    for (int i = 0; i < DIM; i++)
        ck_assert(fabs(want[i] - (i + 1 + (i + DIM < KEYS ? i + DIM + 1 : 0)) / 66.0) < 1e-6);
}
END_TEST

START_TEST(test_attention_to_no_key)
{
    float x[KEYS * DIM] = { 0 };
    double want[DIM], bound[DIM];
    struct lse lse = attend(want, bound, x, x, x, 0);
    ck_assert(lse.want == -INFINITY && lse.bound == 0);
    for (int i = 0; i < DIM; i++)
        ck_assert(want[i] == 0 && bound[i] == 0);
}
END_TEST

/* In the query or in a key that is seen: all NaN; in a key that is not: nothing. */
START_TEST(test_attention_to_nan)
{
    float q[DIM] = { 1, 2, 3 }, K[KEYS * DIM] = { 0 }, V[KEYS * DIM] = { 0 };
    double want[DIM], bound[DIM];
    K[5 * DIM] = NAN;
    ck_assert(!isnan(attend(want, bound, q, K, V, 5).want) && !isnan(want[0]));
    ck_assert(isnan(attend(want, bound, q, K, V, 6).want) && isnan(want[0]) && isnan(want[DIM - 1]));
    q[2] = NAN;
    ck_assert(isnan(attend(want, bound, q, K, V, 5).want) && isnan(want[0]) && isnan(want[DIM - 1]));
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
    tcase_add_test(attention, test_attention_to_no_key);
    tcase_add_test(attention, test_attention_to_nan);
    suite_add_tcase(suite, attention);
    return suite;
}

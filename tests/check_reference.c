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
    return suite;
}

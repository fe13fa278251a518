/* common/verify.c must reject: a verdict that lets one of these pass is worth nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
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
    return verify_softmax(y, x, FP32, ROWS, COLS, plain, 1);
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
                struct verdict v = verify_softmax(y, x, dtypes[t], ROWS, cols, plain, 1);
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

START_TEST(test_semantics_of_nan)
{
    float in[2][4] = { { 0, NAN, 1, 2 }, { -INFINITY, -INFINITY, -INFINITY, -INFINITY } };
    float right[4] = { NAN, NAN, NAN, NAN }, zeros[4] = { 0, 0, 0, 0 }, some[4] = { NAN, NAN, NAN, 0 };
    for (int i = 0; i < 2; i++) {
        ck_assert(verify_softmax(right, in[i], FP32, 1, 4, plain, 1).pass);
        ck_assert(!verify_softmax(zeros, in[i], FP32, 1, 4, plain, 1).pass);
        struct verdict v = verify_softmax(some, in[i], FP32, 1, 4, plain, 1);
        ck_assert(!v.pass && v.wrong == 1 && isnan(v.error));
    }
}
END_TEST

START_TEST(test_masked_must_be_zero)
{
    float in[] = { -INFINITY, 0, 0, -INFINITY }, right[] = { 0, 0.5f, 0.5f, 0 }, leak[] = { 1e-20f, 0.5f, 0.5f, 0 };
    ck_assert(verify_softmax(right, in, FP32, 1, 4, plain, 1).pass);
    ck_assert(!verify_softmax(leak, in, FP32, 1, 4, plain, 1).pass);
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
    struct verdict v = verify_softmax(out, in, FP32, MANY, WIDE, plain, 1);
    ck_assert(v.pass && v.checked > 100 && v.checked < MANY);

    static const int64_t rows[] = { 0, 1, MANY / 3, MANY / 2 + 7, MANY - 2, MANY - 1 };
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        float right = out[rows[r] * WIDE + 77];
        static const float wrong[] = { NAN, INFINITY, 0.5f };
        for (int w = 0; w < 3; w++) {
            out[rows[r] * WIDE + 77] = wrong[w];
            v = verify_softmax(out, in, FP32, MANY, WIDE, plain, 1);
            ck_assert_msg(!v.pass && v.first_wrong == rows[r], "%g in row %lld of %d passes", (double)wrong[w],
                          (long long)rows[r], MANY);
        }
        out[rows[r] * WIDE + 77] = right;
    }
    memset(out + 4321 * WIDE, 0, WIDE * sizeof *out);
    ck_assert(!verify_softmax(out, in, FP32, MANY, WIDE, plain, 1).pass);
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
    tcase_add_test(rejects, test_semantics_of_nan);
    tcase_add_test(rejects, test_masked_must_be_zero);
    suite_add_tcase(suite, rejects);

    tcase_set_timeout(large, 60);
    tcase_add_test(large, test_large_tensors);
    suite_add_tcase(suite, large);
    return suite;
}

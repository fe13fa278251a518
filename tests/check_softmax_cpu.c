/* Every step's CPU functions: all checks of checks.c, what must hold for any softmax, and the lesson of step 01. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checks.h"
#include "half.h"
#include "steps.h"
#include "suites.h"

static struct subject subject_of(int index)
{
    struct subject s;
    ck_assert(subject_at(&s, index, false));
    return s;
}

/* ---- the checks: every step passes them; the naive one fails where its exp leaves the range */

START_TEST(test_check)
{
    struct subject s[MAX_SUBJECTS];
    struct outcome o[MAX_SUBJECTS];
    const struct check *c;
    enum dtype dtype;
    ck_assert(group_at(_i, false, &c, &dtype));
    int count = subjects_of(s, dtype, false);
    check_all(c, s, count, o);
    for (int i = 0; i < count; i++)
        if (c->beyond_exp && is_naive(&s[i]))
            ck_assert_msg(!o[i].pass, "check '%s': %s passes it. Is it still naive?", c->name, subject_name(&s[i]));
        else
            ck_assert_msg(o[i].pass, "check '%s': %s", c->name, o[i].what);
}
END_TEST

/* Attention scores of a real model. Some are above 11.09, so that even they overflow a naive softmax in fp16. */
START_TEST(test_real_input)
{
    struct subject s = subject_of(_i);
    struct softmax_case c = case_new((struct problem){ 1024, input_real_cols(), 0, 0 }, s.dtype, "real");
    void *y = malloc((size_t)(c.p.rows * c.p.cols) * dtype_bytes(s.dtype));
    struct outcome o = case_judge(&c, &s, y);
    if (is_naive(&s) && s.dtype == FP16)
        ck_assert_msg(!o.pass, "%s is right about real scores. Is it still naive?", subject_name(&s));
    else
        ck_assert_msg(o.pass, "%s", o.what);
    case_free(&c);
    free(y);
}
END_TEST

/* ---- what must hold without any reference */

static const int64_t widths[] = { 1, 2, 33, 1000, 4099, 131073 };
enum { WIDTHS = sizeof widths / sizeof widths[0], ROWS = 3 };

/* In fp16 the naive softmax cannot add more: exp(8) is 2981, and fp16 ends at 65504. */
static int widths_for(const struct subject *s)
{
    return is_naive(s) && s->dtype == FP16 ? 2 : WIDTHS;
}

/* Three rows: x, y, and the reference with its bounds. */
struct rows {
    int64_t cols;
    void *x, *y;
    double *bound; /* of each element */
};

/* Multiples of 1/8 from -8 to 8: in every type exact, and still exact after 16 has been added. */
static struct rows rows_new(const struct subject *s, int64_t cols)
{
    int64_t count = ROWS * cols;
    struct rows r = { cols, malloc((size_t)count * 4), malloc((size_t)count * 4), malloc((size_t)count * sizeof(double)) };
    for (int64_t i = 0; i < count; i++)
        element_set(r.x, s->dtype, i, (float)(random_bits(5, (uint64_t)i) % 128) / 8 - 8);
    for (int64_t row = 0; row < ROWS; row++) {
        double *want = r.bound + row * cols;
        struct row_facts facts =
            reference_softmax_row(want, (char *)r.x + (size_t)(row * cols) * dtype_bytes(s->dtype), s->dtype, cols);
        for (int64_t col = 0; col < cols; col++)
            want[col] = softmax_bound(want[col], facts.max - element(r.x, s->dtype, row * cols + col), facts.spread, s->dtype,
                                      cols, subject_rounding(s));
    }
    return r;
}

static void rows_free(struct rows *r)
{
    free(r->x);
    free(r->y);
    free(r->bound);
}

START_TEST(test_rows_sum_to_one)
{
    struct subject s = subject_of(_i);
    for (int w = 0; w < widths_for(&s); w++) {
        struct rows r = rows_new(&s, widths[w]);
        subject_run(&s, r.y, r.x, ROWS, r.cols, NULL);
        for (int64_t row = 0; row < ROWS; row++) {
            double sum = 0, bound = 0;
            for (int64_t i = row * r.cols; i < (row + 1) * r.cols; i++) {
                sum += element(r.y, s.dtype, i);
                bound += r.bound[i];
            }
            ck_assert_msg(fabs(sum - 1) <= bound, "%s: %lld columns sum to %.9g", subject_name(&s), (long long)r.cols, sum);
        }
        rows_free(&r);
    }
}
END_TEST

/*
 * A sum of 2^20, and then as many numbers of which 1024 add up to 0.05: a float does not see that any more, step by step or block
 * by block. Where a step adds in float all the same, its bound says so.
 */
START_TEST(test_small_numbers_beside_a_large_sum)
{
    struct subject s = subject_of(_i);
    const int64_t half = 1 << 20;
    if (s.dtype != FP32)
        return;
    float *x = malloc(2 * (size_t)half * sizeof *x), *y = malloc(2 * (size_t)half * sizeof *y);
    for (int64_t i = 0; i < 2 * half; i++)
        x[i] = i < half ? 0 : -10;
    subject_run(&s, y, x, 1, 2 * half, NULL);
    struct verdict v = verify_softmax(y, x, FP32, 1, 2 * half, subject_rounding(&s));
    ck_assert_msg(v.pass, "%s: %s", subject_name(&s), v.what);
    free(x);
    free(y);
}
END_TEST

/* Two right answers may differ by twice the bound. Column col of `other` is column map(col) of y. */
static void assert_same(const struct subject *s, const struct rows *r, const void *other, int64_t shift, const char *after)
{
    for (int64_t i = 0; i < ROWS * r->cols; i++) {
        int64_t col = i % r->cols, moved = i - col + (col + shift) % r->cols;
        double a = element(r->y, s->dtype, i), b = element(other, s->dtype, moved);
        REQUIRE(fabs(a - b) <= 2 * r->bound[i], "%s, %lld columns: element %lld is %.9g, and %.9g after %s", subject_name(s),
                (long long)r->cols, (long long)i, a, b, after);
    }
}

START_TEST(test_shift_by_a_constant)
{
    struct subject s = subject_of(_i);
    if (is_naive(&s) && s.dtype == FP16)
        return; /* exp(24) does not fit: that is its lesson */
    for (int w = 0; w < widths_for(&s); w++) {
        struct rows r = rows_new(&s, widths[w]);
        void *other = malloc((size_t)(ROWS * r.cols) * 4);
        subject_run(&s, r.y, r.x, ROWS, r.cols, NULL);
        for (int64_t i = 0; i < ROWS * r.cols; i++)
            element_set(r.x, s.dtype, i, (float)element(r.x, s.dtype, i) + 16);
        subject_run(&s, other, r.x, ROWS, r.cols, NULL);
        assert_same(&s, &r, other, 0, "a shift by 16");
        free(other);
        rows_free(&r);
    }
}
END_TEST

START_TEST(test_rotation_of_the_columns)
{
    struct subject s = subject_of(_i);
    for (int w = 0; w < widths_for(&s); w++) {
        struct rows r = rows_new(&s, widths[w]);
        int64_t shift = r.cols / 3 + 1;
        void *moved = malloc((size_t)(ROWS * r.cols) * 4), *other = malloc((size_t)(ROWS * r.cols) * 4);
        subject_run(&s, r.y, r.x, ROWS, r.cols, NULL);
        for (int64_t i = 0; i < ROWS * r.cols; i++)
            element_set(moved, s.dtype, i - i % r.cols + (i % r.cols + shift) % r.cols, (float)element(r.x, s.dtype, i));
        subject_run(&s, other, moved, ROWS, r.cols, NULL);
        assert_same(&s, &r, other, shift, "a rotation of the columns");
        free(moved);
        free(other);
        rows_free(&r);
    }
}
END_TEST

START_TEST(test_same_bits_every_time)
{
    struct subject s = subject_of(_i);
    for (int w = 0; w < widths_for(&s); w++) {
        struct rows r = rows_new(&s, widths[w]);
        size_t bytes = (size_t)(ROWS * r.cols) * dtype_bytes(s.dtype);
        void *other = malloc(bytes);
        subject_run(&s, r.y, r.x, ROWS, r.cols, NULL);
        for (int again = 0; again < 5; again++) {
            subject_run(&s, other, r.x, ROWS, r.cols, NULL);
            ck_assert_msg(memcmp(r.y, other, bytes) == 0, "%s, %lld columns: not the same bits again", subject_name(&s),
                          (long long)r.cols);
        }
        free(other);
        rows_free(&r);
    }
}
END_TEST

START_TEST(test_any_number_of_threads)
{
    struct subject s = subject_of(_i);
    for (int w = 0; w < widths_for(&s); w++) {
        struct rows r = rows_new(&s, widths[w]);
        void *other = malloc((size_t)(ROWS * r.cols) * 4);
        cpu_set_threads(1);
        subject_run(&s, r.y, r.x, ROWS, r.cols, NULL);
        for (int threads = 2; threads <= THREADS_UP_TO(7); threads++) {
            cpu_set_threads(threads);
            memset(other, 0xff, (size_t)(ROWS * r.cols) * 4);
            subject_run(&s, other, r.x, ROWS, r.cols, NULL);
            assert_same(&s, &r, other, 0, "a run with more threads");
        }
        free(other);
        rows_free(&r);
    }
}
END_TEST

/* ---- the lesson of step 01 */

START_TEST(test_naive_overflows_in_fp32)
{
    float fits[] = { 88.0f, 88.0f }, too_large[] = { 88.8f }, hundreds[] = { 100, 100 }, y[2];
    naive_softmax_cpu(y, fits, 1, 2);
    ck_assert(fabsf(y[0] - 0.5f) < 1e-6f && fabsf(y[1] - 0.5f) < 1e-6f);
    naive_softmax_cpu(y, too_large, 1, 1);
    ck_assert(isnan(y[0]));
    naive_softmax_cpu(y, hundreds, 1, 2);
    ck_assert(isnan(y[0]) && isnan(y[1]));
    safe_softmax_cpu(y, hundreds, 1, 2);
    ck_assert(y[0] == 0.5f && y[1] == 0.5f);
}
END_TEST

/* exp(88.5) fits, the sum of two does not: finite / infinity is 0. */
START_TEST(test_naive_sum_overflows_first)
{
    float x[] = { 88.5f, 88.5f }, y[2];
    naive_softmax_cpu(y, x, 1, 2);
    ck_assert(y[0] == 0 && y[1] == 0);
}
END_TEST

START_TEST(test_naive_overflows_in_fp16)
{
    fp16 fits = float_to_fp16(11.0f), too_large = float_to_fp16(11.1f), y[2];
    naive_softmax_fp16_cpu(y, &fits, 1, 1);
    ck_assert(fp16_to_float(y[0]) == 1);
    naive_softmax_fp16_cpu(y, &too_large, 1, 1);
    ck_assert(isnan(fp16_to_float(y[0])));
    fp16 two[] = { fits, fits };
    naive_softmax_fp16_cpu(y, two, 1, 2); /* each exp fits, their sum does not */
    ck_assert(fp16_to_float(y[0]) == 0 && fp16_to_float(y[1]) == 0);
    narrow_softmax_fp16_cpu(y, two, 1, 2);
    ck_assert(fp16_to_float(y[0]) == 0.5f && fp16_to_float(y[1]) == 0.5f);
}
END_TEST

/* From 2048 on, fp16 has no odd numbers: 2048 + 1 is 2048. */
START_TEST(test_naive_sum_stops_in_fp16)
{
    static fp16 x[4096], y[4096]; /* zeros, whose exp is 1 */
    naive_softmax_fp16_cpu(y, x, 1, 4096);
    ck_assert(fp16_to_float(y[0]) == 1.0f / 2048);
    narrow_softmax_fp16_cpu(y, x, 1, 4096);
    ck_assert(fp16_to_float(y[0]) == 1.0f / 4096);
}
END_TEST

START_TEST(test_naive_underflows)
{
    float x[] = { -200, -200 }, y[2];
    naive_softmax_cpu(y, x, 1, 2);
    ck_assert(isnan(y[0]) && isnan(y[1])); /* 0 / 0 */
}
END_TEST

Suite *softmax_cpu_suite(void)
{
    Suite *suite = suite_create("softmax_cpu");
    int subjects = subject_count(false);

    TCase *checks = tcase_create("checks");
    tcase_set_timeout(checks, 120);
    tcase_add_checked_fixture(checks, guard_pages, NULL);
    tcase_add_loop_test(checks, test_check, 0, group_count(false));
    suite_add_tcase(suite, checks);

    TCase *real = tcase_create("real");
    tcase_set_timeout(real, 60);
    tcase_add_loop_test(real, test_real_input, 0, subjects);
    suite_add_tcase(suite, real);

    TCase *invariants = tcase_create("invariants");
    tcase_set_timeout(invariants, 60);
    tcase_add_loop_test(invariants, test_rows_sum_to_one, 0, subjects);
    tcase_add_loop_test(invariants, test_small_numbers_beside_a_large_sum, 0, subjects);
    tcase_add_loop_test(invariants, test_shift_by_a_constant, 0, subjects);
    tcase_add_loop_test(invariants, test_rotation_of_the_columns, 0, subjects);
    tcase_add_loop_test(invariants, test_same_bits_every_time, 0, subjects);
    tcase_add_loop_test(invariants, test_any_number_of_threads, 0, subjects);
    suite_add_tcase(suite, invariants);

    TCase *lesson = tcase_create("lesson");
    tcase_add_test(lesson, test_naive_overflows_in_fp32);
    tcase_add_test(lesson, test_naive_sum_overflows_first);
    tcase_add_test(lesson, test_naive_overflows_in_fp16);
    tcase_add_test(lesson, test_naive_sum_stops_in_fp16);
    tcase_add_test(lesson, test_naive_underflows);
    suite_add_tcase(suite, lesson);
    return suite;
}

/* common/harness/input.c: families of inputs that are the same everywhere, and what each is for. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "half.h"
#include "suites.h"

enum { ROWS = 37, COLS = 101, COUNT = ROWS * COLS, FAMILIES = 15 };

/* The index-th name in the list that the help shows; "" after the last. */
static const char *family_at(int index)
{
    static char name[32];
    const char *at = input_families;
    for (; index > 0 && at; index--) {
        at = strchr(at, ',');
        at = at ? at + 2 : NULL;
    }
    snprintf(name, sizeof name, "%.*s", at ? (int)strcspn(at, ",") : 0, at ? at : "");
    return name;
}

static float *filled(const char *family, uint64_t seed)
{
    float *x = malloc(COUNT * sizeof *x);
    input_fill(x, FP32, ROWS, COLS, family, seed);
    return x;
}

static bool is_real(const char *family)
{
    return strcmp(family, "real") == 0; /* its rows have a length of their own */
}

START_TEST(test_every_family_in_the_list_exists)
{
    int count = 0;
    for (; *family_at(count); count++)
        ck_assert_msg(input_is_family(family_at(count), false), "'%s' is listed, but there is no such family", family_at(count));
    ck_assert_int_eq(count, FAMILIES);
    ck_assert(!input_is_family("", false) && !input_is_family("norm", false) && !input_is_family("normal, uniform", false) &&
              !input_is_family("NORMAL", false));
}
END_TEST

START_TEST(test_same_numbers_every_time)
{
    const char *family = family_at(_i);
    if (is_real(family))
        return;
    cpu_set_threads(1);
    float *one = filled(family, 5);
    for (int threads = 2; threads <= THREADS_UP_TO(5); threads++) {
        cpu_set_threads(threads);
        float *many = filled(family, 5);
        ck_assert_msg(memcmp(one, many, COUNT * sizeof *one) == 0, "'%s' depends on the number of threads", family);
        free(many);
    }
    free(one);
}
END_TEST

/* A row does not depend on how many rows there are: a sample of a large tensor is a small one. */
START_TEST(test_rows_do_not_depend_on_their_number)
{
    const char *family = family_at(_i);
    if (is_real(family))
        return;
    float *many = filled(family, 5), few[3 * COLS];
    input_fill(few, FP32, 3, COLS, family, 5);
    ck_assert_msg(memcmp(many, few, sizeof few) == 0, "'%s' depends on the number of rows", family);
    free(many);
}
END_TEST

START_TEST(test_narrow_types_are_the_same_numbers_rounded)
{
    const char *family = family_at(_i);
    if (is_real(family) || strcmp(family, "deep") == 0) /* which goes to the end of each type */
        return;
    static fp16 half[COUNT];
    static bf16 brain[COUNT];
    float *x = filled(family, 5);
    input_fill(half, FP16, ROWS, COLS, family, 5);
    input_fill(brain, BF16, ROWS, COLS, family, 5);
    for (int i = 0; i < COUNT; i++) {
        ck_assert(isnan(x[i]) ? isnan(fp16_to_float(half[i])) : half[i].bits == float_to_fp16(x[i]).bits);
        ck_assert(isnan(x[i]) ? isnan(bf16_to_float(brain[i])) : brain[i].bits == float_to_bf16(x[i]).bits);
    }
    free(x);
}
END_TEST

START_TEST(test_seeds_differ)
{
    float *a = filled("normal", 1), *b = filled("normal", 2);
    int same = 0;
    for (int i = 0; i < COUNT; i++)
        same += a[i] == b[i];
    ck_assert_int_lt(same, COUNT / 100);
    free(a);
    free(b);
}
END_TEST

/* Mean 0, variance 1; with n numbers the mean of x is off by 1/sqrt(n), that of x^2 by sqrt(2/n): five of these are allowed. */
START_TEST(test_normal_is_normal)
{
    enum { N = 1 << 20 };
    float *x = malloc(N * sizeof *x);
    input_fill(x, FP32, 1024, N / 1024, "normal", 3);
    double sum = 0, squares = 0;
    int beyond_two = 0;
    for (int i = 0; i < N; i++) {
        REQUIRE(fabsf(x[i]) < 7, "%g is not normal", (double)x[i]);
        sum += x[i];
        squares += (double)x[i] * x[i];
        beyond_two += fabsf(x[i]) > 2;
    }
    ck_assert(fabs(sum / N) < 5 / sqrt(N));
    ck_assert(fabs(squares / N - 1) < 5 * sqrt(2.0 / N));
    ck_assert(fabs((double)beyond_two / N - erfc(2 / sqrt(2))) < 5 * sqrt(0.0455 / N));
    free(x);
}
END_TEST

/* Neighbouring indices and seeds have nothing to do with one another: every bit is as often 1 as 0, in x and in x xor next. */
START_TEST(test_random_bits)
{
    enum { N = 1 << 16 };
    for (int by_seed = 0; by_seed < 2; by_seed++)
        for (int bit = 0; bit < 64; bit++) {
            int ones = 0, changes = 0;
            for (uint64_t i = 0; i < N; i++) {
                uint64_t here = by_seed ? random_bits(i, 9) : random_bits(9, i),
                         next = by_seed ? random_bits(i + 1, 9) : random_bits(9, i + 1);
                ones += (int)(here >> bit & 1);
                changes += (int)((here ^ next) >> bit & 1);
            }
            ck_assert_msg(abs(ones - N / 2) < 5 * 128 && abs(changes - N / 2) < 5 * 128, "bit %d: %d ones, %d changes of %d", bit,
                          ones, changes, N);
        }
}
END_TEST

/* What each family is there to show. */
START_TEST(test_families_are_what_they_are_called)
{
    float *x = filled("rising", 1);
    for (int i = 0; i < COUNT; i++)
        ck_assert(i % COLS == 0 || x[i] > x[i - 1]);
    ck_assert(x[0] < -319 && x[COLS - 1] > 319);
    free(x);
    x = filled("falling", 1);
    ck_assert(x[0] > 319 && x[COLS - 1] < -319);
    free(x);
    x = filled("equal", 1);
    for (int i = 0; i < COUNT; i++)
        ck_assert(x[i] == x[0]);
    free(x);
    x = filled("shifted", 1);
    for (int i = 0; i < COUNT; i++)
        ck_assert(x[i] > 88.8f);
    free(x);
    x = filled("far", 1);
    for (int i = 0; i < COUNT; i++)
        ck_assert(x[i] < -9000);
    free(x);
    x = filled("peak", 1);
    for (int row = 0; row < ROWS; row++) {
        int peaks = 0;
        for (int col = 0; col < COLS; col++)
            peaks += x[row * COLS + col] == 1e4f;
        ck_assert_int_eq(peaks, 1);
    }
    free(x);
    float *empty = filled("empty", 1), *nan = filled("nan", 1), *masked = filled("masked", 1);
    int minus_infinities = 0;
    for (int row = 0; row < ROWS; row++) {
        int nans = 0, empties = 0;
        for (int i = row * COLS; i < (row + 1) * COLS; i++) {
            nans += isnan(nan[i]);
            empties += empty[i] == -INFINITY;
            minus_infinities += masked[i] == -INFINITY;
        }
        ck_assert(nans == (row % 2 == 0) && empties == (row % 2 == 0) * COLS);
    }
    ck_assert(minus_infinities > COUNT / 5 && minus_infinities < COUNT * 3 / 10);
    free(empty);
    free(nan);
    free(masked);
}
END_TEST

START_TEST(test_real_scores)
{
    int64_t cols = input_real_cols();
    ck_assert_int_gt(cols, 1);
    float *x = malloc((size_t)(2 * cols) * sizeof *x);
    input_fill(x, FP32, 2, cols, "real", 1);
    for (int64_t i = 0; i < 2 * cols; i++)
        REQUIRE(!isnan(x[i]) && x[i] < 1e4f, "a score of %g", (double)x[i]);
    free(x);
}
END_TEST

/* What tests/data holds: fp16, as captured, and no number that is not one (a masked score is -inf). */
START_TEST(test_real_tensors)
{
    static const char *const files[] = { "scores", "q", "k", "v", "logits" };
    size_t all_bytes = 0;
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        char path[64], why[256];
        snprintf(path, sizeof path, "tests/data/%s.npy", files[f]);
        struct npy x;
        ck_assert_msg(npy_read(path, &x, why, sizeof why) == 0, "%s", why);
        ck_assert(x.dtype == FP16 && x.dims >= 2);
        int64_t count = 1;
        for (int d = 0; d < x.dims; d++)
            count *= x.shape[d];
        for (int64_t i = 0; i < count; i++)
            REQUIRE(element(x.data, FP16, i) < INFINITY, "%s: element %lld is %g", path, (long long)i, element(x.data, FP16, i));
        all_bytes += (size_t)count * 2;
        free(x.data);
    }
    ck_assert(all_bytes <= 4 << 20);
}
END_TEST

START_TEST(test_named_shapes)
{
    int count = 0;
    for (const struct named_shape *s = softmax_shapes; s->name; s++, count++)
        ck_assert(s->rows > 0 && s->cols > 0);
    ck_assert_int_gt(count, 0);
}
END_TEST

Suite *input_suite(void)
{
    Suite *suite = suite_create("input");
    TCase *same = tcase_create("same");
    tcase_add_test(same, test_every_family_in_the_list_exists);
    tcase_add_loop_test(same, test_same_numbers_every_time, 0, FAMILIES);
    tcase_add_loop_test(same, test_rows_do_not_depend_on_their_number, 0, FAMILIES);
    tcase_add_loop_test(same, test_narrow_types_are_the_same_numbers_rounded, 0, FAMILIES);
    suite_add_tcase(suite, same);

    TCase *families = tcase_create("families");
    tcase_set_timeout(families, 30);
    tcase_add_test(families, test_seeds_differ);
    tcase_add_test(families, test_normal_is_normal);
    tcase_add_test(families, test_random_bits);
    tcase_add_test(families, test_families_are_what_they_are_called);
    tcase_add_test(families, test_real_scores);
    tcase_add_test(families, test_real_tensors);
    tcase_add_test(families, test_named_shapes);
    suite_add_tcase(suite, families);
    return suite;
}

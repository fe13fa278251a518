/*
 * Every step's GPU functions: the checks of checks.c, shapes that only a GPU can get wrong, the same bits on every run, and the
 * GPU's mutants. All in one process: see main_gpu.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checks.h"
#include "mutants/mutants.h"
#include "suites.h"

enum { DTYPES = 3 }; /* FP32, FP16, BF16 */

static struct subject subject_of(int index)
{
    struct subject s;
    ck_assert(subject_at(&s, index, true));
    return s;
}

START_TEST(test_check)
{
    struct subject s[MAX_SUBJECTS];
    struct outcome o[MAX_SUBJECTS];
    const struct check *c;
    enum dtype dtype;
    ck_assert(group_at(_i, true, &c, &dtype));
    int count = subjects_of(s, dtype, true);
    progress(c->name, dtype_name(dtype));
    check_all(c, s, count, o);
    for (int i = 0; i < count; i++)
        if (c->beyond_exp && is_naive(&s[i]))
            ck_assert_msg(!o[i].pass, "check '%s': %s passes it. Is it still naive?", c->name, subject_name(&s[i]));
        else
            ck_assert_msg(o[i].pass, "check '%s': %s", c->name, o[i].what);
}
END_TEST

/* y is returned: free() it. */
static void *judged(const struct softmax_case *c, const struct subject *s, bool must_fail)
{
    void *y = malloc((size_t)(c->p.rows * c->p.cols) * dtype_bytes(s->dtype));
    ck_assert(y);
    struct outcome o = case_judge(c, s, y);
    if (must_fail)
        ck_assert_msg(!o.pass, "%s is right about real scores. Is it still naive?", subject_name(s));
    else
        ck_assert_msg(o.pass, "%s", o.what);
    return y;
}

START_TEST(test_real_input)
{
    struct subject s[MAX_SUBJECTS];
    enum dtype dtype = (enum dtype)_i;
    int count = subjects_of(s, dtype, true);
    struct softmax_case c = case_new((struct problem){ 1024, input_real_cols(), 0, 0 }, dtype, "real");
    progress("real", dtype_name(dtype));
    for (int i = 0; i < count; i++)
        free(judged(&c, &s[i], is_naive(&s[i]) && dtype == FP16));
    case_free(&c);
}
END_TEST

/*
 * More rows than a grid's y and z have blocks; row lengths around the borders where a launcher may choose another kernel; few
 * rows for many multiprocessors; rows of 16 Mi.
 */
static const int64_t large[][2] = {
    { 70000, 33 }, { 200000, 3 }, { 65537, 257 },  { 1031, 1536 }, { 133, 2048 },   { 133, 2049 },   { 67, 6145 },
    { 67, 8192 },  { 35, 12289 }, { 35, 16384 },   { 35, 16385 },  { 19, 24577 },   { 19, 32769 },   { 17, 49152 },
    { 9, 65536 },  { 9, 65537 },  { 5, 98305 },    { 7, 131072 },  { 5, 196609 },   { 3, 262144 },   { 5, 262145 },
    { 3, 524288 }, { 3, 524289 }, { 16, 1048576 }, { 2, 2097153 }, { 1, 16777216 }, { 1, 16777219 },
};
enum { LARGE = sizeof large / sizeof large[0] };

/* In fp16 the naive softmax cannot add long rows. */
static bool too_long_for(const struct subject *s, int64_t cols)
{
    return is_naive(s) && s->dtype == FP16 && cols > 1024;
}

/* With TESTS_SMALL, as `make sanitize` sets it, where everything takes a hundred times as long. */
static bool too_large(int64_t elements)
{
    return getenv("TESTS_SMALL") && elements > 1 << 20;
}

START_TEST(test_large)
{
    if (too_large(large[_i % LARGE][0] * large[_i % LARGE][1]))
        return;
    struct subject s[MAX_SUBJECTS];
    enum dtype dtype = (enum dtype)(_i / LARGE);
    int count = subjects_of(s, dtype, true);
    struct softmax_case c = case_new((struct problem){ large[_i % LARGE][0], large[_i % LARGE][1], 0, 0 }, dtype, "normal");
    progress("large", dtype_name(dtype));
    for (int i = 0; i < count; i++)
        if (!too_long_for(&s[i], c.p.cols))
            free(judged(&c, &s[i], false));
    case_free(&c);
}
END_TEST

START_TEST(test_same_bits_every_time)
{
    static const int64_t shapes[][2] = { { 1031, 33 }, { 257, 1000 }, { 67, 4096 }, { 9, 65537 }, { 16, 1048576 } };
    struct subject s[MAX_SUBJECTS];
    enum dtype dtype = (enum dtype)_i;
    int count = subjects_of(s, dtype, true);
    progress("same bits", dtype_name(dtype));
    for (int shape = 0; shape < 5 && !too_large(shapes[shape][0] * shapes[shape][1]); shape++) {
        struct softmax_case c = case_new((struct problem){ shapes[shape][0], shapes[shape][1], 0, 0 }, dtype, "normal");
        for (int i = 0; i < count; i++) {
            if (too_long_for(&s[i], c.p.cols))
                continue;
            void *first = judged(&c, &s[i], false);
            for (int again = 0; again < 4; again++) {
                void *y = malloc((size_t)(c.p.rows * c.p.cols) * dtype_bytes(dtype));
                const char *problem = case_run(&c, &s[i], y);
                ck_assert_msg(!problem && memcmp(first, y, (size_t)(c.p.rows * c.p.cols) * dtype_bytes(dtype)) == 0,
                              "%s, %lld columns: %s", subject_name(&s[i]), (long long)c.p.cols,
                              problem ? problem : "not the same bits again");
                free(y);
            }
            free(first);
        }
        case_free(&c);
    }
}
END_TEST

/* Rows that begin beyond 2^31 and 2^32 elements. All rows are zeros but the last, so that only that one travels. */
START_TEST(test_more_elements_than_32_bits_count)
{
    struct subject s = subject_of(_i);
    int64_t cols = 1024, rows = ((int64_t)1 << 32) / cols + 3, last = (rows - 1) * cols;
    size_t element = dtype_bytes(s.dtype), row_bytes = (size_t)cols * element, bytes = (size_t)rows * row_bytes;
    size_t workspace_bytes = s.step->workspace ? s.step->workspace(rows, cols, s.dtype) : 0;
    if (too_large(rows * cols) || 2 * bytes + workspace_bytes + ((size_t)1 << 28) > gpu_device.memory()) {
        printf("skipped: %s beyond 2^32 elements: the GPU has too little memory, or TESTS_SMALL is set\n", subject_name(&s));
        return;
    }
    progress(subject_name(&s), "beyond 2^32 elements");
    struct buffer x = buffer_new(bytes, &gpu_device), y = buffer_new(bytes, &gpu_device),
                  workspace = buffer_new(workspace_bytes + 1, &gpu_device);
    char *host_x = malloc(2 * row_bytes), *host_y = malloc(2 * row_bytes); /* the first row and the last one */
    gpu_fill(x.data, 0, bytes);
    gpu_fill(workspace.data, 0, workspace_bytes + 1);
    input_fill(host_x, s.dtype, 2, cols, "normal", 1);
    gpu_upload(x.data, host_x, row_bytes);
    gpu_upload((char *)x.data + (size_t)last * element, host_x + row_bytes, row_bytes);
    subject_run(&s, y.data, x.data, rows, cols, workspace_bytes ? workspace.data : NULL);
    gpu_finish(subject_name(&s));
    gpu_download(host_y, y.data, row_bytes);
    gpu_download(host_y + row_bytes, (char *)y.data + (size_t)last * element, row_bytes);
    struct verdict v = verify_softmax(host_y, host_x, s.dtype, 2, cols, subject_rounding(&s));
    bool intact = buffer_guards_intact(&x) && buffer_guards_intact(&y) && buffer_guards_intact(&workspace);
    buffer_free(&x);
    buffer_free(&y);
    buffer_free(&workspace);
    free(host_x);
    free(host_y);
    ck_assert_msg(v.pass && intact, "%s: %s", subject_name(&s), v.pass ? "memory outside the tensors was written" : v.what);
}
END_TEST

START_TEST(test_mutant_is_caught)
{
    const char *why = mutant_escapes(mutant_at(_i, true));
    ck_assert_msg(!why, "%s", why);
}
END_TEST

/* Names of cases are those of the CPU's suites, so that CK_RUN_CASE means the same for both programs. */
Suite *softmax_gpu_suite(void)
{
    Suite *suite = suite_create("softmax_gpu");
    int subjects = subject_count(true), mutants_here = 0;
    while (mutant_at(mutants_here, true))
        mutants_here++;

    TCase *checks = tcase_create("checks"), *real = tcase_create("real");
    TCase *invariants = tcase_create("invariants"), *caught = tcase_create("caught");
    tcase_add_loop_test(checks, test_check, 0, group_count(true));
    tcase_add_loop_test(checks, test_large, 0, DTYPES * LARGE);
    tcase_add_loop_test(checks, test_more_elements_than_32_bits_count, 0, subjects);
    suite_add_tcase(suite, checks);
    tcase_add_loop_test(real, test_real_input, 0, DTYPES);
    suite_add_tcase(suite, real);
    tcase_add_loop_test(invariants, test_same_bits_every_time, 0, DTYPES);
    suite_add_tcase(suite, invariants);
    tcase_add_loop_test(caught, test_mutant_is_caught, 0, mutants_here);
    suite_add_tcase(suite, caught);
    return suite;
}

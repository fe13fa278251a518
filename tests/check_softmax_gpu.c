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

static struct subject subject_of(int index)
{
    struct subject s;
    ck_assert(subject_at(&s, index, true));
    return s;
}

START_TEST(test_check)
{
    struct subject s;
    const struct check *c;
    ck_assert(pair_at(_i, true, &c, &s));
    progress(subject_name(&s), c->name);
    struct outcome o = check_run(c, &s);
    if (c->beyond_exp && is_naive(&s))
        ck_assert_msg(!o.pass, "check '%s': %s passes it. Is it still naive?", c->name, subject_name(&s));
    else
        ck_assert_msg(o.pass, "check '%s': %s", c->name, o.what);
}
END_TEST

/* x from a family; y is returned: free() it. */
static void *judged(const struct subject *s, const struct problem *p, const char *family)
{
    size_t bytes = (size_t)(p->rows * p->cols) * dtype_bytes(s->dtype);
    void *x = malloc(bytes), *y = malloc(bytes);
    ck_assert(x && y);
    input_fill(x, s->dtype, p->rows, p->cols, family, 1);
    progress(subject_name(s), family);
    struct outcome o = subject_judge(s, p, x, y);
    free(x);
    if (is_naive(s) && s->dtype == FP16 && strcmp(family, "real") == 0)
        ck_assert_msg(!o.pass, "%s is right about real scores. Is it still naive?", subject_name(s));
    else
        ck_assert_msg(o.pass, "%s: %s", family, o.what);
    return y;
}

START_TEST(test_real_input)
{
    struct subject s = subject_of(_i);
    free(judged(&s, &(struct problem){ 1024, input_real_cols(), 0, 0 }, "real"));
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

/* The index-th of all pairs; the naive softmax in fp16 cannot add long rows. */
static bool large_at(int index, struct subject *s, struct problem *p)
{
    for (int i = 0; subject_at(s, i / LARGE, true); i++) {
        *p = (struct problem){ large[i % LARGE][0], large[i % LARGE][1], 0, 0 };
        if (!(is_naive(s) && s->dtype == FP16 && p->cols > 1024) && index-- == 0)
            return true;
    }
    return false;
}

START_TEST(test_large)
{
    struct subject s;
    struct problem p;
    ck_assert(large_at(_i, &s, &p));
    free(judged(&s, &p, "normal"));
}
END_TEST

START_TEST(test_same_bits_every_time)
{
    static const int64_t shapes[][2] = { { 1031, 33 }, { 257, 1000 }, { 67, 4096 }, { 9, 65537 }, { 16, 1048576 } };
    struct subject s = subject_of(_i);
    int count = is_naive(&s) && s.dtype == FP16 ? 2 : 5;
    for (int i = 0; i < count; i++) {
        struct problem p = { shapes[i][0], shapes[i][1], 0, 0 };
        void *first = judged(&s, &p, "normal");
        for (int again = 0; again < 4; again++) {
            void *y = judged(&s, &p, "normal");
            ck_assert_msg(memcmp(first, y, (size_t)(p.rows * p.cols) * dtype_bytes(s.dtype)) == 0,
                          "%s, %lld columns: not the same bits again", subject_name(&s), (long long)p.cols);
            free(y);
        }
        free(first);
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
    if (2 * bytes + workspace_bytes + ((size_t)1 << 28) > memory_available(true)) {
        printf("skipped: %s beyond 2^32 elements: the GPU has too little memory\n", subject_name(&s));
        return;
    }
    progress(subject_name(&s), "beyond 2^32 elements");
    struct buffer x = buffer_new(bytes, true), y = buffer_new(bytes, true), workspace = buffer_new(workspace_bytes + 1, true);
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
    struct verdict v = verify_softmax(host_y, host_x, s.dtype, 2, cols, subject_rounding(&s), 1);
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
    int subjects = subject_count(true), mutants_here = 0, large_count = 0;
    struct subject s;
    struct problem p;
    while (large_at(large_count, &s, &p))
        large_count++;
    while (mutant_at(mutants_here, true))
        mutants_here++;

    TCase *checks = tcase_create("checks"), *real = tcase_create("real");
    TCase *invariants = tcase_create("invariants"), *caught = tcase_create("caught");
    tcase_add_loop_test(checks, test_check, 0, pair_count(true));
    tcase_add_loop_test(checks, test_large, 0, large_count);
    tcase_add_loop_test(checks, test_more_elements_than_32_bits_count, 0, subjects);
    suite_add_tcase(suite, checks);
    tcase_add_loop_test(real, test_real_input, 0, subjects);
    suite_add_tcase(suite, real);
    tcase_add_loop_test(invariants, test_same_bits_every_time, 0, subjects);
    suite_add_tcase(suite, invariants);
    tcase_add_loop_test(caught, test_mutant_is_caught, 0, mutants_here);
    suite_add_tcase(suite, caught);
    return suite;
}

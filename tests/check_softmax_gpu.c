/*
 * Every step's GPU functions: the checks of checks.c, shapes that only a GPU can get wrong, the same bits on every run, and the
 * GPU's mutants. All in one process: see main_gpu.c.
 */
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

static bool is_naive(const struct subject *s)
{
    return strcmp(s->step->name, "01_naive_softmax") == 0;
}

/* The index-th check that is for GPUs, too. */
static const struct check *check_at(int index)
{
    for (int i = 0; i < softmax_check_count; i++)
        if (!softmax_checks[i].cpu_only && index-- == 0)
            return &softmax_checks[i];
    return NULL;
}

static int checks_count(void)
{
    int count = 0;
    while (check_at(count))
        count++;
    return count;
}

START_TEST(test_check)
{
    struct subject s = subject_of(_i / checks_count());
    const struct check *c = check_at(_i % checks_count());
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
 * rows for many multiprocessors; more bytes than 32 bits can count; rows of 16 Mi.
 */
static const struct problem large[] = {
    { 70000, 33, 0, 0 },      { 200000, 3, 0, 0 },      { 65537, 257, 0, 0 },     { 1031, 1536, 0, 0 },    { 133, 2048, 0, 0 },     { 133, 2049, 0, 0 },
    { 67, 6145, 0, 0 },       { 67, 8192, 0, 0 },       { 35, 12289, 0, 0 },      { 35, 16384, 0, 0 },     { 35, 16385, 0, 0 },     { 19, 24577, 0, 0 },
    { 19, 32769, 0, 0 },      { 17, 49152, 0, 0 },      { 9, 65536, 0, 0 },       { 9, 65537, 0, 0 },      { 5, 98305, 0, 0 },      { 7, 131072, 0, 0 },
    { 5, 196609, 0, 0 },      { 3, 262144, 0, 0 },      { 5, 262145, 0, 0 },      { 3, 524288, 0, 0 },     { 3, 524289, 0, 0 },     { 16, 1048576, 0, 0 },
    { 2, 2097153, 0, 0 },     { 1, 16777216, 0, 0 },    { 1, 16777219, 0, 0 },    { 140000, 8192, 0, 0 },
};
enum { LARGE = sizeof large / sizeof large[0] };

START_TEST(test_large)
{
    struct subject s = subject_of(_i / LARGE);
    free(judged(&s, &large[_i % LARGE], "normal"));
}
END_TEST

START_TEST(test_same_bits_every_time)
{
    static const struct problem shapes[] = { { 1031, 33, 0, 0 }, { 257, 1000, 0, 0 }, { 67, 4096, 0, 0 }, { 9, 65537, 0, 0 }, { 16, 1048576, 0, 0 } };
    struct subject s = subject_of(_i);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        size_t bytes = (size_t)(shapes[i].rows * shapes[i].cols) * dtype_bytes(s.dtype);
        void *first = judged(&s, &shapes[i], "normal");
        for (int again = 0; again < 4; again++) {
            void *y = judged(&s, &shapes[i], "normal");
            ck_assert_msg(memcmp(first, y, bytes) == 0, "%s, %lld columns: not the same bits again", subject_name(&s), (long long)shapes[i].cols);
            free(y);
        }
        free(first);
    }
}
END_TEST

/* The index-th mutant that runs on a GPU. */
static const struct mutant *mutant_at(int index)
{
    for (int i = 0; i < mutant_count; i++)
        if (mutants[i].gpu && index-- == 0)
            return &mutants[i];
    return NULL;
}

START_TEST(test_mutant_is_caught)
{
    const struct mutant *m = mutant_at(_i);
    const struct check *c = check_named(m->caught_by);
    const struct softmax_step *correct = step_named(m->mimics);
    ck_assert_msg(c && correct, "%s: no check '%s', or no step '%s'", m->step.name, m->caught_by, m->mimics);

    struct softmax_step step = m->step;
    step.gpu_sum = correct->gpu_sum;
    struct outcome wrong = check_run(c, &(struct subject){ &step, m->dtype, true });
    ck_assert_msg(!wrong.pass, "check '%s' does not see what is wrong with %s", c->name, m->file);
    struct outcome right = check_run(c, &(struct subject){ correct, m->dtype, true });
    ck_assert_msg(right.pass, "check '%s' rejects the correct %s: %s", c->name, m->mimics, right.what);
}
END_TEST

/* Names of cases are those of the CPU's suites, so that CK_RUN_CASE means the same for both programs. */
Suite *softmax_gpu_suite(void)
{
    Suite *suite = suite_create("softmax_gpu");
    int subjects = subject_count(true), mutants_here = 0;
    while (mutant_at(mutants_here))
        mutants_here++;

    TCase *checks = tcase_create("checks"), *real = tcase_create("real"), *invariants = tcase_create("invariants"), *caught = tcase_create("caught");
    tcase_add_loop_test(checks, test_check, 0, subjects * checks_count());
    tcase_add_loop_test(checks, test_large, 0, subjects * LARGE);
    suite_add_tcase(suite, checks);
    tcase_add_loop_test(real, test_real_input, 0, subjects);
    suite_add_tcase(suite, real);
    tcase_add_loop_test(invariants, test_same_bits_every_time, 0, subjects);
    suite_add_tcase(suite, invariants);
    tcase_add_loop_test(caught, test_mutant_is_caught, 0, mutants_here);
    suite_add_tcase(suite, caught);
    return suite;
}

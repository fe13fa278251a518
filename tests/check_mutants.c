/*
 * The test of the tests: every mutant fails the check that was made for it, and the step that it mimics passes the same
 * check, under the same claims. (GPU mutants are in the GPU's suite.)
 */
#include <stdlib.h>

#include "attention_checks.h"
#include "mutants/attention.h"
#include "mutants/mutants.h"
#include "suites.h"

START_TEST(test_mutant_is_caught)
{
    const char *why = mutant_escapes(mutant_at(_i, false));
    ck_assert_msg(!why, "%s", why);
}
END_TEST

/*
 * A reader's run of a step with this mistake in it fails: at an ordinary size, on ordinary input, by its small problems.
 * TESTS_SMALL, under sanitizers and emulators: every fifth mutant.
 */
static bool left_out(int i)
{
    return getenv("TESTS_SMALL") && i % 5;
}

static int run_quietly(int (*run)(int argc, char **argv), int argc, char **argv)
{
    setenv("RESULTS", "/dev/null", 1);
    setenv("CEILINGS", "/dev/null", 1);
    ck_assert(freopen("/dev/null", "w", stdout) != NULL);
    flush_limit = 1 << 20;
    return run(argc, argv);
}

static struct softmax_step wrong_softmax;
static struct attention_step wrong_attention;

static int run_softmax(int argc, char **argv)
{
    return softmax_main(&wrong_softmax, NULL, argc, argv);
}

static int run_attention(int argc, char **argv)
{
    return attention_main(&wrong_attention, NULL, argc, argv);
}

START_TEST(test_run_notices_mutant)
{
    if (left_out(_i))
        return;
    const struct mutant *m = mutant_at(_i, false);
    const struct softmax_step *correct = step_named(m->mimics);
    char *words[] = {
        "program", "--rows", "128", "--cols", "512", "--reps", "1", "--device", "cpu", "--dtype", (char *)dtype_name(m->dtype),
        NULL
    };
    wrong_softmax = m->step;
    wrong_softmax.idea = "broken", wrong_softmax.reads = 1, wrong_softmax.exps = 1;
    wrong_softmax.cpu_sum = correct->cpu_sum, wrong_softmax.fp16_unit = correct->fp16_unit;
    ck_assert_msg(run_quietly(run_softmax, 11, words) == EXIT_FAILED, "a run of %s passes", m->file);
}
END_TEST

START_TEST(test_run_notices_attention_mutant)
{
    if (left_out(_i))
        return;
    const struct attention_mutant *m = &attention_mutants[_i];
    char *words[] = { "program", "--heads", "2", "--seq", "256", "--dim", "64", "--reps", "1", "--device", "cpu", NULL };
    wrong_attention = m->step;
    wrong_attention.idea = "broken", wrong_attention.predict = attention_step_named(m->mimics)->predict;
    ck_assert_msg(run_quietly(run_attention, 11, words) == EXIT_FAILED, "a run of %s passes", m->file);
}
END_TEST

/* No check may be so loose that it lets all of them pass. */
START_TEST(test_check_catches_something)
{
    const struct check *c = &softmax_checks[_i];
    for (int i = 0; mutant_at(i, false); i++) {
        struct softmax_step step = mutant_at(i, false)->step;
        step.cpu_sum = step_named(mutant_at(i, false)->mimics)->cpu_sum;
        if (!check_run(c, &(struct subject){ &step, mutant_at(i, false)->dtype, false }).pass)
            return;
    }
    ck_abort_msg("check '%s' catches none of the mutants", c->name);
}
END_TEST

/* ---- the same for attention */

START_TEST(test_attention_mutant_is_caught)
{
    const struct attention_mutant *m = &attention_mutants[_i];
    const struct attention_check *c = attention_check_named(m->caught_by);
    const struct attention_step *correct = attention_step_named(m->mimics);
    ck_assert_msg(c && correct, "%s: no check '%s', or no step '%s'", m->step.name, m->caught_by, m->mimics);

    struct outcome wrong = attention_check_run(c, &(struct attention_subject){ &m->step, FP32, false });
    ck_assert_msg(!wrong.pass, "check '%s' does not see what is wrong with %s", c->name, m->file);
    struct outcome right = attention_check_run(c, &(struct attention_subject){ correct, FP32, false });
    ck_assert_msg(right.pass, "check '%s' rejects the correct %s: %s", c->name, m->mimics, right.what);
}
END_TEST

START_TEST(test_attention_check_catches_something)
{
    if (attention_checks[_i].gpu_only) /* these mutants are for a CPU */
        return;
    for (int i = attention_mutant_count - 1; i >= 0; i--) /* the last ones fail most checks, and at once */
        if (!attention_check_run(&attention_checks[_i], &(struct attention_subject){ &attention_mutants[i].step, FP32, false })
                 .pass)
            return;
    ck_abort_msg("check '%s' catches none of the mutants", attention_checks[_i].name);
}
END_TEST

Suite *mutants_suite(void)
{
    Suite *suite = suite_create("mutants");
    TCase *caught = tcase_create("caught");
    tcase_set_timeout(caught, 120);
    int count = 0;
    while (mutant_at(count, false))
        count++;
    tcase_add_loop_test(caught, test_mutant_is_caught, 0, count);
    tcase_add_loop_test(caught, test_run_notices_mutant, 0, count);
    tcase_add_loop_test(caught, test_check_catches_something, 0, softmax_check_count);
    suite_add_tcase(suite, caught);

    TCase *attention = tcase_create("attention");
    tcase_set_timeout(attention, 120);
    tcase_add_loop_test(attention, test_attention_mutant_is_caught, 0, attention_mutant_count);
    tcase_add_loop_test(attention, test_run_notices_attention_mutant, 0, attention_mutant_count);
    tcase_add_loop_test(attention, test_attention_check_catches_something, 0, attention_check_count);
    suite_add_tcase(suite, attention);
    return suite;
}

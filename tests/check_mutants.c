/*
 * The test of the tests: every mutant fails the check that was made for it, and the step that it mimics passes the same
 * check, under the same claims. (GPU mutants are in the GPU's suite.)
 */
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
    tcase_add_loop_test(caught, test_check_catches_something, 0, softmax_check_count);
    suite_add_tcase(suite, caught);

    TCase *attention = tcase_create("attention");
    tcase_set_timeout(attention, 120);
    tcase_add_loop_test(attention, test_attention_mutant_is_caught, 0, attention_mutant_count);
    tcase_add_loop_test(attention, test_attention_check_catches_something, 0, attention_check_count);
    suite_add_tcase(suite, attention);
    return suite;
}

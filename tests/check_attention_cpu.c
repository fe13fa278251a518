/* Every attention step's CPU function: all checks of attention_checks.c. And FlashAttention's rule itself. */
#include <stdio.h>
#include <string.h>

#include "attention_checks.h"
#include "suites.h"

START_TEST(test_check)
{
    struct attention_subject all[MAX_SUBJECTS], s[MAX_SUBJECTS];
    struct outcome o[MAX_SUBJECTS];
    const struct attention_check *c;
    enum dtype dtype;
    int count = 0;
    ck_assert(attention_group_at(_i, false, &c, &dtype));
    for (int i = 0, n = attention_subjects_of(all, dtype, false); i < n; i++)
        if (!attention_subject_missing(&all[i]))
            s[count++] = all[i];
        else if (c == attention_checks) /* once is enough */
            printf("skipped: %s: %s\n", attention_subject_name(&all[i]), attention_subject_missing(&all[i]));
    attention_check_all(c, s, count, o);
    for (int i = 0; i < count; i++)
        if (attention_must_fail(c, &s[i]))
            ck_assert_msg(!o[i].pass, "check '%s': %s passes it, and says that it does not", c->name, attention_subject_name(&s[i]));
        else
            ck_assert_msg(o[i].pass, "check '%s': %s", c->name, o[i].what);
}
END_TEST

/* The 16-bit attention that sets the measure keeps to it; one that drops a key does not. */
START_TEST(test_flash_attention_rule)
{
    const enum dtype dtype = _i ? BF16 : FP16;
    const struct attention p = { 1, 2, 1, 40, 60, 64, true, 0 };
    struct attention_case c = attention_case_of(p, dtype, "normal");
    double error, allowed;
    same_precision_attention(&c);
    ck_assert(flash_attention_rule(&c, &error, &allowed) && error > 0 && error <= allowed);

    struct attention_case shorter = attention_case_of(p, dtype, "normal");
    memset((char *)shorter.v.data + shorter.v.bytes - 64 * 2, 0, 64 * 2); /* the last value of the last head */
    same_precision_attention(&shorter);
    memcpy(c.O.data, shorter.O.data, c.O.bytes);
    ck_assert_msg(!flash_attention_rule(&c, &error, &allowed), "off by %g, allowed %g", error, allowed);
    attention_case_free(&c);
    attention_case_free(&shorter);
}
END_TEST

Suite *attention_cpu_suite(void)
{
    Suite *suite = suite_create("attention_cpu");
    TCase *checks = tcase_create("checks"), *rule = tcase_create("rule");
    tcase_set_timeout(checks, 120);
    tcase_add_loop_test(checks, test_check, 0, attention_group_count(false));
    suite_add_tcase(suite, checks);
    tcase_add_loop_test(rule, test_flash_attention_rule, 0, 2);
    suite_add_tcase(suite, rule);
    return suite;
}

/* What both test programs share. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "suites.h"

#define SLOW 1.0 /* seconds: a check that takes longer is named */

void progress(const char *subject, const char *check)
{
    static char last_subject[160], last_check[80];
    static double start, since;
    double time = now();
    if (start == 0)
        start = since = time;
    if (time - since > SLOW)
        printf("          \"%s\" took %.1f s\n", last_check, time - since);
    if (strcmp(subject, last_subject) != 0)
        printf("%6.1f s  %s, from \"%s\" on\n", time - start, subject, check);
    fflush(stdout);
    since = time;
    snprintf(last_subject, sizeof last_subject, "%s", subject);
    snprintf(last_check, sizeof last_check, "%s", check);
}

void guard_pages(void)
{
    setenv("GUARD_PAGES", "1", 1);
}

int run_suites(Suite *(*const suites[])(void), int count, enum fork_status fork_status, int *run)
{
    SRunner *runner = srunner_create(suites[0]());
    for (int i = 1; i < count; i++)
        srunner_add_suite(runner, suites[i]());
    srunner_set_fork_status(runner, fork_status);
    srunner_run_all(runner, CK_ENV);
    *run = srunner_ntests_run(runner);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed;
}

/* What both test programs share. */
#include <stdio.h>
#include <string.h>

#include "common.h"
#include "suites.h"

void progress(const char *subject, const char *check)
{
    static char current[160];
    static double start;
    if (start == 0)
        start = now();
    if (strcmp(subject, current) != 0)
        printf("%6.1f s  %s, from \"%s\" on\n", now() - start, subject, check);
    fflush(stdout);
    snprintf(current, sizeof current, "%s", subject);
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

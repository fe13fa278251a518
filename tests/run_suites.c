/* What both test programs share. */
#include <stdio.h>

#include "suites.h"

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

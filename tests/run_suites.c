/* What both test programs share. */
#include <stdio.h>
#include <stdlib.h>

#include "suites.h"

int run_suites(Suite *(*const suites[])(void), int count, enum fork_status fork_status)
{
    SRunner *runner = srunner_create(suites[0]());
    for (int i = 1; i < count; i++)
        srunner_add_suite(runner, suites[i]());
    srunner_set_fork_status(runner, fork_status);
    srunner_run_all(runner, CK_ENV);
    int run = srunner_ntests_run(runner), failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (run == 0)
        fprintf(stderr, "no test ran: is CK_RUN_SUITE or CK_RUN_CASE misspelt?\n");
    return run > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

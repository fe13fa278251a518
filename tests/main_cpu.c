/*
 * All tests that need no GPU. CK_RUN_SUITE and CK_RUN_CASE choose some; CK_VERBOSITY=verbose names every one. A run of no test
 * fails: a misspelt name must not look like success.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "suites.h"

int main(void)
{
    static Suite *(*const suites[])(void) = {
        merge_suite,       half_suite,          vexp_suite,    npy_suite,    input_suite,      reference_suite, verify_suite,
        memory_suite,      report_suite,        timing_suite,  probes_suite, fake_steps_suite, golden_suite,    program_suite,
        softmax_cpu_suite, attention_cpu_suite, backward_suite, mutants_suite, file_suite, options_suite, ring_suite,
        paged_suite, library_suite,
    };
    const char *chosen = getenv("CK_RUN_SUITE");
    if (chosen && strstr(chosen, "_gpu")) {
        printf("suite %s is in the other program, main_gpu\n", chosen);
        return EXIT_SUCCESS;
    }
    int run, failed = run_suites(suites, sizeof suites / sizeof suites[0], CK_FORK_GETENV, &run);
    if (run == 0)
        fprintf(stderr, "no test ran: is the name of the suite or of the case misspelt?\n");
    return run > 0 && failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

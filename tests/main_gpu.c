/*
 * The GPU's tests, in one process: CUDA does not survive a fork. An error that leaves the device unusable ends the program,
 * and a kernel that hangs hangs it, so it is run under a timeout. Without a device everything is skipped, and counted.
 */
#include <stdio.h>
#include <stdlib.h>

#include "attention_checks.h"
#include "ring/ring.h"
#include "suites.h"

int main(void)
{
    ring_be_rank();
    if (gpu_count() == 0) {
        printf("GPU tests: skipped: no CUDA device: %s\n", gpu_missing());
        printf("GPU tests: %d checks of %d GPU functions have not run\n", group_count(true) + attention_group_count(true),
               subject_count(true) + attention_subject_count(true));
        return EXIT_SUCCESS;
    }
    printf("GPU tests on: %s\n", gpu_name());
    static Suite *(*const suites[])(void) = {
        softmax_gpu_suite, attention_gpu_suite, layout_gpu_suite, backward_gpu_suite, library_gpu_suite, ring_gpu_suite,
    };
    int run, failed = run_suites(suites, sizeof suites / sizeof suites[0], CK_NOFORK, &run);
    if (run == 0) /* main_cpu has all names of suites and cases that there are, and fails for a misspelt one */
        printf("no GPU test is so named\n");
    bool misspelt = run == 0 && (getenv("TESTS_STEPS") || getenv("TESTS_CHECK") || getenv("TESTS_DTYPE"));
    return failed == 0 && !misspelt ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* All that needs no GPU. CK_RUN_SUITE and CK_RUN_CASE choose; CK_VERBOSITY=verbose names every test. */
#include "suites.h"

int main(void)
{
    static Suite *(*const suites[])(void) = {
        merge_suite, half_suite, vexp_suite, npy_suite, input_suite, reference_suite, verify_suite, memory_suite,
        report_suite, program_suite, softmax_cpu_suite, mutants_suite,
    };
    return run_suites(suites, sizeof suites / sizeof suites[0], CK_FORK_GETENV);
}

/*
 * The test programs: a Check suite per module, tests/check_<module>.c; cases are named by theme. A suite is made by the
 * function declared here. Each test of main_cpu.c runs in a process of its own, so that a crash or a hang fails that test
 * alone; the parent must therefore never open a parallel region (OpenMP's threads do not survive a fork).
 */
#ifndef SUITES_H
#define SUITES_H

#include <check.h>

/* ck_assert_msg for inner loops: says nothing to the parent as long as all is well, which ck_assert_msg does every time. */
#define REQUIRE(condition, ...)        \
    do {                               \
        if (!(condition))              \
            ck_abort_msg(__VA_ARGS__); \
    } while (0)

/* A fixture: from here on a CPU's buffers end where a page begins that nobody may touch. Whoever reads past the end crashes. */
void guard_pages(void);

/* How many threads a test may ask for: `most`, or 1 where the compiler has no OpenMP (Apple's clang). */
#ifdef _OPENMP
#define THREADS_UP_TO(most) (most)
#else
#define THREADS_UP_TO(most) ((void)(most), 1)
#endif

Suite *merge_suite(void);
Suite *half_suite(void);
Suite *vexp_suite(void);
Suite *file_suite(void);
Suite *npy_suite(void);
Suite *options_suite(void);
Suite *input_suite(void);
Suite *reference_suite(void);
Suite *verify_suite(void);
Suite *memory_suite(void);
Suite *report_suite(void);
Suite *timing_suite(void);
Suite *fake_steps_suite(void);
Suite *golden_suite(void);
Suite *program_suite(void);
Suite *probes_suite(void);
Suite *softmax_cpu_suite(void);
Suite *attention_cpu_suite(void);
Suite *backward_suite(void);
Suite *ring_suite(void);
Suite *paged_suite(void);
Suite *library_suite(void);
Suite *mutants_suite(void);

Suite *softmax_gpu_suite(void);
Suite *attention_gpu_suite(void);
void paged_gpu_tests(TCase *pages); /* adds them: a case of that suite */
Suite *layout_gpu_suite(void);
Suite *backward_gpu_suite(void);
Suite *library_gpu_suite(void);
Suite *ring_gpu_suite(void);

/*
 * Says what is being tested, and how many seconds have gone by: a line for each new subject, and one for each check that took
 * long. For tests that may be cut off.
 */
void progress(const char *subject, const char *check);

/* Runs the suites, all or what CK_RUN_SUITE and CK_RUN_CASE name. Returns the failures; how many tests ran goes to *run. */
int run_suites(Suite *(*const suites[])(void), int count, enum fork_status fork_status, int *run);

#endif

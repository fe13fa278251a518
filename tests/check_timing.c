/* common/harness/timing.c: what is timed, how often, and what is made
   of the times. Clocks are the test's own, where that is possible. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "harness.h"
#include "suites.h"

static void sleep_ms(double ms)
{
    struct timespec t = { (time_t)(ms / 1e3), (long)(fmod(ms, 1e3) * 1e6) };
    nanosleep(&t, NULL);
}

/* ---- a clock that says what the test wants: the n-th run of a work takes script[n] ms */

struct scripted {
    const double *script;
    int runs;
};

static char order[64]; /* the names of the works, as they ran */

static double scripted_run(const struct work *work)
{
    struct scripted *s = work->arg;
    order[strlen(order)] = (char)('a' + (work->bytes & 15));
    return s->script[s->runs++];
}

/* The first run of each warms up, and is not counted; the works then take turns. */
START_TEST(test_turns)
{
    static const double a[] = { 1000, 5, 1, 4, 2, 3 }, b[] = { 2000, 10, 20, 30, 40, 50 };
    struct scripted s[] = { { a, 0 }, { b, 0 } };
    struct work works[] = { { .arg = &s[0], .bytes = 0 }, { .arg = &s[1], .bytes = 1 } };
    memset(order, 0, sizeof order);
    time_in_turn(works, 2, 5, 0, scripted_run);
    ck_assert_str_eq(order, "abababababab");
    ck_assert(works[0].time.median == 3 && works[0].time.p10 == 1 && works[0].time.p90 == 5 && works[0].time.reps == 5);
    ck_assert(works[1].time.median == 30 && works[1].time.p10 == 10 && works[1].time.p90 == 50);
}
END_TEST

START_TEST(test_percentiles)
{
    double ms[100];
    for (int i = 0; i < 100; i++)
        ms[i] = (i * 37 + 11) % 100; /* 0 to 99, in another order */
    struct timing t = timing_of(ms, 100);
    ck_assert(t.median == 50 && t.p10 == 10 && t.p90 == 89 && t.reps == 100);
    double one[] = { 7 };
    t = timing_of(one, 1);
    ck_assert(t.median == 7 && t.p10 == 7 && t.p90 == 7 && t.reps == 1);
}
END_TEST

/* The first run of the step before tells whether there is time for rounds; each then warms up. */
START_TEST(test_ratio_of_the_medians)
{
    static const double a[] = { 1000, 5, 1, 4, 2, 3 }, b[] = { 7, 2000, 10, 20, 30, 40, 50 };
    struct scripted s[] = { { a, 0 }, { b, 0 } };
    struct work run = { .arg = &s[0] }, before = { .arg = &s[1] };
    struct device scripted = cpu_device;
    scripted.run_once = scripted_run;
    struct ratio r = time_ratio(run, before, &scripted, 5, 10);
    ck_assert_msg(r.median == 30.0 / 3 && r.least == 10.0 / 5 && r.most == 50, "%g, %g to %g", r.median, r.least, r.most);
}
END_TEST

/* ---- a clock that notes when it is looked at, and moves when a run says so */

static double seconds;
static int looks, runs_at_look[4];
static int64_t flushed_at_look[4];
static int runs;

static double noting(void)
{
    runs_at_look[looks] = runs;
    flushed_at_look[looks++] = cpu_bytes_flushed();
    return seconds;
}

static void run_20_seconds(void *arg)
{
    (void)arg;
    runs++;
    seconds += 20;
}

/* Flush, look at the clock, run, look again: nothing else is inside. */
START_TEST(test_only_the_run_is_inside)
{
    struct work work = { .run = run_20_seconds, .bytes = 1000 };
    double (*real)(void) = now;
    int64_t before = cpu_bytes_flushed();
    flush_limit = 1 << 20;
    now = noting;
    double ms = run_once_cpu(&work);
    now = real;
    ck_assert(ms == 20e3 && looks == 2 && runs_at_look[0] == 0 && runs_at_look[1] == 1);
    ck_assert(flushed_at_look[0] > before && flushed_at_look[1] == flushed_at_look[0]);
}
END_TEST

static double moving(void)
{
    return seconds;
}

static double run_for_10_ms(const struct work *work)
{
    (void)work;
    runs++;
    seconds += 1.0 / 128;
    return 1;
}

/* As many rounds as fit, 3 at least and 200 at most; or as many as were asked for. The first, to warm up, is outside. */
START_TEST(test_rounds)
{
    static const struct { int reps; double budget; int rounds; } cases[] = {
        { 0, 12.0 / 128, 12 }, { 0, 1.0 / 128, 3 }, { 0, 10, 200 }, { 7, 12.0 / 128, 7 }, { 250, 1.0 / 128, 250 },
    };
    double (*real)(void) = now;
    now = moving;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct work work = { 0 };
        runs = 0;
        time_in_turn(&work, 1, cases[i].reps, cases[i].budget, run_for_10_ms);
        ck_assert_msg(work.time.reps == cases[i].rounds && runs == cases[i].rounds + 1, "%d rounds, not %d", work.time.reps,
                      cases[i].rounds);
    }
    now = real;
}
END_TEST

/* ---- the real clock, of which only a lower bound is certain */

static void run_20_ms(void *arg)
{
    (void)arg;
    runs++;
    sleep_ms(20);
}

START_TEST(test_the_run_is_inside)
{
    struct work work = { .run = run_20_ms, .bytes = INT64_MAX };
    double ms = run_once_cpu(&work);
    ck_assert_msg(ms >= 20, "%g ms for 20", ms);
    ck_assert_int_eq(runs, 1);
    double start = now();
    sleep_ms(10);
    ck_assert(now() - start >= 0.010);
}
END_TEST

static void run_nothing(void *arg)
{
    (void)arg;
}

/* Before each run of something small, and not before what is large enough to do it by itself. The time of it is not the run's. */
START_TEST(test_caches_are_flushed)
{
    struct work small = { .run = run_nothing, .bytes = 1000 }, large = { .run = run_nothing, .bytes = INT64_MAX };
    int64_t level = cpu_cache_bytes(3) > 0 ? cpu_cache_bytes(3) : 32 << 20, most = 1 << 30, before = cpu_bytes_flushed();
    time_in_turn(&small, 1, 2, 0, run_once_cpu);
    ck_assert_int_ge(cpu_bytes_flushed() - before, 3 * (2 * level < most ? 2 * level : most));
    before = cpu_bytes_flushed();
    run_once_cpu(&large);
    ck_assert_int_eq(cpu_bytes_flushed(), before);
}
END_TEST

static void run_for(void *ms)
{
    sleep_ms(*(double *)ms);
}

/* 10 ms against 40: a busy machine adds to both. */
START_TEST(test_ratio)
{
    double ten = 10, forty = 40;
    struct work run = { .run = run_for, .arg = &ten, .bytes = INT64_MAX };
    struct work before = { .run = run_for, .arg = &forty, .bytes = INT64_MAX };
    double ratio = time_ratio(run, before, &cpu_device, 0, 0.2).median;
    ck_assert_msg(ratio > 1.5 && ratio < 6, "%g", ratio);
    ratio = time_ratio(run, before, &cpu_device, 0, 0.01).median; /* where the step before is slow: one run of each */
    ck_assert_msg(ratio > 1.5 && ratio < 6, "%g", ratio);
}
END_TEST

Suite *timing_suite(void)
{
    Suite *suite = suite_create("timing");
    TCase *scripted = tcase_create("scripted"), *real = tcase_create("real");
    tcase_set_timeout(real, 60); /* on a busy machine */
    tcase_add_test(scripted, test_turns);
    tcase_add_test(scripted, test_percentiles);
    tcase_add_test(scripted, test_ratio_of_the_medians);
    tcase_add_test(scripted, test_only_the_run_is_inside);
    tcase_add_test(scripted, test_rounds);
    tcase_add_test(real, test_the_run_is_inside);
    tcase_add_test(real, test_caches_are_flushed);
    tcase_add_test(real, test_ratio);
    suite_add_tcase(suite, scripted);
    suite_add_tcase(suite, real);
    return suite;
}

/* The CPU's clock: median and spread of runs that start with cold caches. (The GPU's is in gpu.cu.) */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "harness.h"

#define MIN_ROUNDS 3
#define MAX_ROUNDS 200

static double monotonic(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double (*now)(void) = monotonic;

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct timing timing_of(double *ms, int count)
{
    qsort(ms, (size_t)count, sizeof *ms, ascending);
    return (struct timing){ ms[count / 2], ms[count / 10], ms[count - 1 - count / 10], count };
}

void time_in_turn(struct work *works, int count, int reps, double budget, double (*run_once)(const struct work *))
{
    int limit = reps > 0 ? reps : MAX_ROUNDS, rounds = 0;
    double *ms = malloc((size_t)limit * (size_t)count * sizeof *ms);
    if (!ms)
        fatal("not enough CPU memory to time %d rounds", limit);
    for (int i = 0; i < count; i++) /* warm up */
        run_once(&works[i]);
    for (double start = now(); rounds < limit && (reps > 0 || rounds < MIN_ROUNDS || now() - start < budget); rounds++)
        for (int i = 0; i < count; i++)
            ms[i * limit + rounds] = run_once(&works[i]);
    for (int i = 0; i < count; i++)
        works[i].time = timing_of(ms + i * limit, rounds);
    free(ms);
}

int64_t flush_limit = 1 << 30;

/* FLUSH_LIMIT=1 in the environment: no more than a MiB, for runs whose times nobody looks at. */
int64_t cpu_flush_bytes(void)
{
    const char *chosen = getenv("FLUSH_LIMIT"); /* in MiB */
    int64_t cache = cpu_cache_bytes(3) > 0 ? cpu_cache_bytes(3) : 32 << 20;
    int64_t limit = chosen && atoi(chosen) > 0 ? (int64_t)atoi(chosen) << 20 : flush_limit;
    return 2 * cache < limit ? 2 * cache : limit;
}

static int64_t flushed; /* bytes */

int64_t cpu_bytes_flushed(void)
{
    return flushed;
}

/* Reads twice the last level of cache, in case the work's own tensors are small enough to stay there. */
static void flush_caches(int64_t own_bytes)
{
    static uint64_t *buffer;
    static int64_t bytes;
    if (!buffer) {
        bytes = cpu_flush_bytes();
        buffer = cpu_device.allocate((size_t)bytes);
        if (!buffer)
            fatal("not enough CPU memory: %.2f GiB needed to flush the caches", (double)bytes / (1 << 30));
        memset(buffer, 1, (size_t)bytes);
    }
    if (own_bytes >= bytes) /* a run over tensors of this size flushes the caches itself */
        return;
    uint64_t sum = 0;
    int64_t lines = 0;
#pragma omp parallel for reduction(+ : sum, lines)
    for (int64_t i = 0; i < bytes / 8; i += 8) /* a line is 64 bytes */
        sum += buffer[i], lines++;
    buffer[0] = sum; /* used, so that the compiler cannot leave the loop out */
    flushed += 64 * lines;
}

double run_once_cpu(const struct work *work)
{
    flush_caches(work->bytes);
    double start = now();
    work->run(work->arg);
    return 1e3 * (now() - start);
}

struct ratio time_ratio(struct work run, struct work before, const struct device *device, int reps, double budget)
{
    double first = device->run_once(&before);
    if (first > 500 * budget) {
        double only = first / device->run_once(&run);
        return (struct ratio){ only, only, only };
    }
    struct work both[] = { run, before };
    time_in_turn(both, 2, reps, budget / 2, device->run_once);
    const struct timing *a = &both[0].time, *b = &both[1].time;
    return (struct ratio){ b->median / a->median, b->p10 / a->p90, b->p90 / a->p10 };
}

/*
 * What happens inside a kernel, and when, for a debug build: -DTIMELINE, as `make timeline` compiles it. Otherwise all of this is
 * nothing.
 *
 * A mark is one store of the SM's clock by one thread of a warpgroup of one block, the first of the grid: 4 bytes, which nobody
 * waits for. A count is an addition by one thread of each warpgroup.
 */
#ifndef TIMELINE_CUH
#define TIMELINE_CUH

#include "ptx.cuh"

enum mark { WAITED_FOR_K, BEGAN_PRODUCTS, GOT_SCORES, GOT_VALUES, DID_SOFTMAX, /* consumers */
            BEGAN_K, BEGAN_V,                                                  /* producers */
            MARKS };
enum count { CHECKS, REPAIRS, IDLE_REPAIRS, COUNTS };

#ifdef TIMELINE
#include <stdio.h>
#include <stdlib.h>

#define TIMELINE_BLOCKS 64    /* of keys: the first so many */
#define TIMELINE_WARPGROUPS 5 /* at most 4 of consumers, and one of producers */

struct timeline {
    uint32_t clocks[TIMELINE_WARPGROUPS][TIMELINE_BLOCKS][MARKS];
    unsigned long long counts[COUNTS];
};

static __device__ struct timeline timeline;

/* By a whole warpgroup, or by one thread of the producers. */
INLINE void mark(enum mark what, uint32_t block)
{
    if (blockIdx.x == 0 && (threadIdx.x % 128 == 0 || what >= BEGAN_K) && block < TIMELINE_BLOCKS) {
        uint32_t now;
        asm volatile("mov.u32 %0, %%clock;" : "=r"(now) :: "memory");
        timeline.clocks[threadIdx.x / 128][block][what] = now;
    }
}

INLINE void count(enum count what)
{
    if (threadIdx.x % 128 == 0)
        atomicAdd(&timeline.counts[what], 1ull);
}

/* A repair by a whole warpgroup, which changed what this thread's rows refer to, or not. */
INLINE void count_idle(bool changed, int warpgroup)
{
    if (!named_barrier_any(1 + warpgroup, 128, changed))
        count(IDLE_REPAIRS);
}

/* The clocks of the last launch, to the file that $TIMELINE names: warpgroup, block, and a column for each mark, - for none. */
static void print_marks(const struct timeline *t)
{
    const char *path = getenv("TIMELINE") ? getenv("TIMELINE") : "build/timeline.txt";
    FILE *f = fopen(path, "w");
    struct cudaDeviceProp device;
    if (!f) {
        fprintf(stderr, "timeline: %s cannot be written\n", path);
        return;
    }
    if (cudaGetDeviceProperties(&device, 0) == cudaSuccess)
        fprintf(f, "# device: %s\n", device.name);
    fprintf(f, "# warpgroup\tblock\twaited_for_k\tbegan_products\tgot_scores\tgot_values\tdid_softmax\tbegan_k\tbegan_v\n");
    for (int w = 0; w < TIMELINE_WARPGROUPS; w++)
        for (int b = 0; b < TIMELINE_BLOCKS; b++) {
            const uint32_t *clocks = t->clocks[w][b];
            if (!clocks[WAITED_FOR_K] && !clocks[BEGAN_K])
                continue;
            fprintf(f, "%d\t%d", w, b);
            for (int m = 0; m < MARKS; m++)
                if (clocks[m])
                    fprintf(f, "\t%d", (int)(clocks[m] - t->clocks[0][0][WAITED_FOR_K]));
                else
                    fprintf(f, "\t-");
            fputc('\n', f);
        }
    fclose(f);
}

static void print_timeline(void)
{
    static struct timeline t;
    if (cudaMemcpyFromSymbol(&t, timeline, sizeof t) != cudaSuccess)
        return;
    if (t.clocks[0][0][WAITED_FOR_K])
        print_marks(&t);
    if (t.counts[CHECKS])
        printf("    repairs     %llu of %llu blocks of a warpgroup, %.3g %%; %llu changed nothing\n", t.counts[REPAIRS],
               t.counts[CHECKS], 100.0 * (double)t.counts[REPAIRS] / (double)t.counts[CHECKS], t.counts[IDLE_REPAIRS]);
}

/* A launcher calls this. When the program ends, what was seen is printed. */
static inline void timeline_at_exit(void)
{
    static bool registered;
    if (!registered)
        atexit(print_timeline);
    registered = true;
}
#else
INLINE void mark(enum mark, uint32_t) {}
INLINE void count(enum count) {}
INLINE void count_idle(bool, int) {}
static inline void timeline_at_exit(void) {}
#endif

#endif

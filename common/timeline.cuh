/*
 * When what happens inside a kernel: `make timeline` compiles with -DTIMELINE and draws it. Otherwise mark() is nothing.
 *
 * A mark is one store of the SM's clock by one thread of a warpgroup of one block, the first: 4 bytes, which nobody waits for.
 */
#ifndef TIMELINE_CUH
#define TIMELINE_CUH

#include "ptx.cuh"

enum mark { WAITED_FOR_K, BEGAN_PRODUCTS, GOT_SCORES, GOT_VALUES, DID_SOFTMAX, MARKS };

#ifdef TIMELINE
#include <stdio.h>
#include <stdlib.h>

#define TIMELINE_BLOCKS 64    /* of keys: the first so many */
#define TIMELINE_WARPGROUPS 4

static __device__ uint32_t timeline[TIMELINE_WARPGROUPS][TIMELINE_BLOCKS][MARKS];

INLINE void mark(enum mark what, uint32_t block)
{
    if (blockIdx.x == 0 && threadIdx.x % 128 == 0 && block < TIMELINE_BLOCKS) {
        uint32_t now;
        asm volatile("mov.u32 %0, %%clock;" : "=r"(now) :: "memory");
        timeline[threadIdx.x / 128][block][what] = now;
    }
}

/* The clocks of the last launch, to the file that $TIMELINE names: warpgroup, block, and a column for each mark; 0: no such mark. */
static inline void timeline_print(void)
{
    static uint32_t clocks[TIMELINE_WARPGROUPS][TIMELINE_BLOCKS][MARKS];
    FILE *f = fopen(getenv("TIMELINE") ? getenv("TIMELINE") : "build/timeline.tsv", "w");
    cudaMemcpyFromSymbol(clocks, timeline, sizeof clocks);
    for (int w = 0; f && w < TIMELINE_WARPGROUPS; w++)
        for (int b = 0; b < TIMELINE_BLOCKS && clocks[w][b][WAITED_FOR_K]; b++) {
            fprintf(f, "%d\t%d", w, b);
            for (int m = 0; m < MARKS; m++)
                fprintf(f, "\t%u", clocks[w][b][m] ? clocks[w][b][m] - clocks[0][0][0] : 0);
            fputc('\n', f);
        }
    if (f)
        fclose(f);
}
#else
INLINE void mark(enum mark, uint32_t) {}
#endif

#endif

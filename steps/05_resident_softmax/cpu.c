/*
 * Step 05, resident softmax: fetch a row from memory once, keep it in the cache, store it once.
 *
 * Step 04 reads a row twice because it throws the exponentials of the first reading away. Here they stay in a scratch row, each
 * relative to the maximum of its own block. When the row's (m, l) is known, block b is stored times exp(m_b - m) / l: the merge
 * rule, applied to results instead of sums.
 *
 * A core that fetches, then computes, then stores leaves memory idle most of the time. So a thread works on three rows in turns: it
 * asks for a chunk of what comes next, stores a chunk of an older row, and computes the chunk of this row that takes its place in
 * the scratch. Stores go past the caches: nobody here reads the results again.
 *
 * Trips over the tensor: 1 read, 1 write. Exponentials per element: 1.
 * Changed since step 04: the scratch, the prefetch, the streamed stores, and fp16 and bf16, computed in fp32.
 */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "chunk.h"
#include "common.h"
#include "merge.h"
#include "steps.h"
#include "vexp.h"

#define BLOCK 512  /* columns that share a maximum: they stay in the first-level cache */
#define AHEAD 3072 /* bytes from what is computed to what is fetched. Beyond a page of 4096 it is slower: hardware prefetch ends there */
#define WAIT 1024  /* columns between computing and storing, at least: several short rows, so that nobody waits for a sum */

/* e: (cols) = exp(x - m), m the maximum of x: (cols). If y is given, what was in e goes there first, times scale. */
INLINE struct softmax_state block_exp(struct stream *y, float *restrict e, float scale, const void *x, int64_t cols, enum dtype dtype)
{
    float spare[CHUNK], top[CHUNK], sum[CHUNK] = { 0 };
    for (int i = 0; i < CHUNK; i++)
        top[i] = -INFINITY;
    for (int64_t col = 0; col < cols; col += CHUNK) {
        const float *v = chunk_load(spare, element_at(x, col, dtype), CHUNK_AT(col, cols), dtype);
#pragma omp simd
        for (int i = 0; i < CHUNK; i++)
            top[i] = v[i] > top[i] ? v[i] : top[i];
    }
    return (struct softmax_state){ 0, 0 };
}

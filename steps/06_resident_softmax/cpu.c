/*
 * Step 06, resident softmax: fetch a row from memory once, keep it in the cache, store it once.
 *
 * Step 05 reads a row twice because it throws the exponentials of the first reading away. Here they stay in a scratch row, each
 * relative to the maximum of its own block. When the row's (m, l) is known, block b is stored times exp(m_b - m) / l: the merge
 * rule, applied to results instead of sums.
 *
 * A core that fetches, then computes, then stores leaves memory idle most of the time. So a thread takes turns: it asks for a
 * chunk of what comes next, stores a chunk of the row before, and computes the chunk of this row that takes its place in the
 * scratch. Stores go past the caches: nobody here reads the results again.
 *
 * Trips over the tensor: 1 read, 1 write. Exponentials per element: 1.
 * Changed since step 05: the scratch, the prefetch and the streamed stores.
 */
#include <math.h>
#include <stdlib.h>

#include "chunk.h"
#include "machine.h"
#include "merge.h"
#include "steps.h"
#include "vexp.h"

#define BLOCK 512  /* columns that share a maximum: they stay in the first-level cache */
#define AHEAD 3072 /* bytes from what is computed to what is fetched: farther than a page (4096) was slower */

/* One turn: fetch what comes next, store the old e times scale (if there is a y), compute e = exp(x - m), add that to sum. */
INLINE void chunk_turn(struct stream *y, float *restrict e, float scale, const float *x, float m, float *restrict sum, int cols)
{
    float spare[CHUNK];
    prefetch_bytes((const char *)x + AHEAD, CHUNK * sizeof *x);
    if (y)
        chunk_store(y, e, scale, cols, FP32);
    const float *v = chunk_load(spare, x, cols, FP32);
#pragma omp simd
    for (int i = 0; i < CHUNK; i++) {
        e[i] = vexp(v[i] - m);
        sum[i] += e[i];
    }
}

/* The same for a block, x: (cols), with its maximum m. Returns its state. */
INLINE struct softmax_state block_turn(struct stream *y, float *e, float scale, const float *x, float m, int64_t cols)
{
    int64_t whole = cols - cols % CHUNK;
    int rest = (int)(cols - whole);
    float sum[CHUNK] = { 0 };
    float base = m == -INFINITY ? 0.0f : m; /* -inf - base must not be NaN */

    for (int64_t col = 0; col < whole; col += CHUNK)
        chunk_turn(y, e + col, scale, x + col, base, sum, CHUNK);
    if (rest)
        chunk_turn(y, e + whole, scale, x + whole, base, sum, rest);
    return (struct softmax_state){ m, chunk_sum(sum) };
}

/* Store a block's e: (cols) times scale. */
INLINE void block_store(struct stream *y, const float *e, float scale, int64_t cols)
{
    for (int64_t col = 0; col < cols; col += CHUNK)
        chunk_store(y, e + col, scale, (int)(cols - col < CHUNK ? cols - col : CHUNK), FP32);
}

/* scale: (blocks) = exp(m_b - m) / l: what makes results of each block's exponentials. */
INLINE void row_scale(float *restrict scale, const struct softmax_state *block, int64_t blocks)
{
    float m = -INFINITY;
    for (int64_t b = 0; b < blocks; b++)
        m = block[b].m > m ? block[b].m : m;
    double l = 0.0; /* a float that has grown large no longer sees the small numbers that are added to it */
    for (int64_t b = 0; b < blocks; b++) {
        scale[b] = vexp(block[b].m - m);
        l += (double)block[b].l * scale[b];
    }
    float inverse = (float)(1.0 / l);
    for (int64_t b = 0; b < blocks; b++)
        scale[b] *= inverse;
}

/* One thread's share: rows first ... last - 1 of x, y: (rows, cols). A row is stored when the next one takes its place. */
INLINE void share_softmax(float *y, const float *x, int64_t first, int64_t last, int64_t cols)
{
    int64_t blocks = (cols + BLOCK - 1) / BLOCK, width = (cols + CHUNK - 1) / CHUNK * CHUNK;
    float *e = aligned_alloc(LINE, (size_t)width * sizeof *e);
    float *scale = malloc((size_t)blocks * sizeof *scale);
    struct softmax_state *block = malloc((size_t)blocks * sizeof *block);
    if (!e || !scale || !block)
        fatal("no memory for a scratch row of %lld columns", (long long)cols);

    struct stream out = stream_open(y + first * cols);
    for (int64_t row = first; row <= last && first < last; row++) {
        for (int64_t b = 0; b < blocks; b++) {
            int64_t left = b * BLOCK, n = cols - left < BLOCK ? cols - left : BLOCK;
            const float *from = x + row * cols + left;
            if (row < last)
                block[b] = block_turn(row > first ? &out : NULL, e + left, scale[b], from, columns_max(from, n, FP32), n);
            else /* no rows left to compute, only to store */
                block_store(&out, e + left, scale[b], n);
        }
        if (row < last)
            row_scale(scale, block, blocks);
    }
    stream_close(&out);
    free(e);
    free(scale);
    free(block);
}

/* x, y: (rows, cols), row-major. Each row of y is the softmax of that row of x. Each thread takes neighbouring rows. */
void resident_softmax_cpu(float *y, const float *x, int64_t rows, int64_t cols)
{
    int64_t threads = cpu_threads();
#pragma omp parallel for
    for (int64_t t = 0; t < threads; t++)
        share_softmax(y, x, rows * t / threads, rows * (t + 1) / threads, cols);
}

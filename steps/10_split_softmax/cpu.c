/*
 * Step 10, split softmax: a row too long for one core's cache, shared by all cores.
 *
 * Threads take parts of the same row, whole blocks of it. Each finds the states of its blocks; when all have, the states are
 * merged, in one order, so that the result does not depend on how many threads there are; then each stores its part. A part is
 * read twice, and its exponentials are computed again: a scratch row that fits no cache would cost two trips, not one. The second
 * reading costs nothing while the caches of all cores together hold the row; beyond that it is a trip, the price of a row that
 * fits nowhere. Shorter rows go to a thread each, as in step 07.
 *
 * Trips over the tensor: 2 reads, 1 write; 1 read, 1 write where the caches hold the row. Exponentials per element: 2, or 1.
 * Changed since step 07: threads share a long row.
 */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "chunk.h"
#include "machine.h"
#include "merge.h"
#include "steps.h"
#include "vexp.h"

#define BLOCK 512  /* columns that share a maximum: they stay in the first-level cache */
#define AHEAD 3072 /* bytes from what is computed to what is fetched: farther than a page (4096) was slower */
#define WAIT 1024  /* columns between computing and storing: of short rows as many as fit, so that nobody waits for a sum */

/* One turn: fetch what comes next, store the old e times scale (if there is a y), compute e = exp(x - m), add that to sum. */
INLINE void chunk_turn(struct stream *y, float *restrict e, float scale, const void *x, float m, float *restrict sum, int cols,
                       enum dtype dtype)
{
    float spare[CHUNK];
    prefetch_bytes((const char *)x + AHEAD, CHUNK * element_bytes(dtype));
    if (y)
        chunk_store(y, e, scale, cols, dtype);
    const float *v = chunk_load(spare, x, cols, dtype);
#pragma omp simd
    for (int i = 0; i < CHUNK; i++) {
        e[i] = vexp(v[i] - m);
        sum[i] += e[i];
    }
}

/* The same for a block, x: (cols), with its maximum m. Returns its state. */
INLINE struct softmax_state block_turn(struct stream *y, float *e, float scale, const void *x, float m, int64_t cols,
                                       enum dtype dtype)
{
    int64_t whole = cols - cols % CHUNK;
    int rest = (int)(cols - whole);
    float sum[CHUNK] = { 0 };
    float base = m == -INFINITY ? 0.0f : m; /* -inf - base must not be NaN */

    for (int64_t col = 0; col < whole; col += CHUNK)
        chunk_turn(y, e + col, scale, element_at(x, col, dtype), base, sum, CHUNK, dtype);
    if (rest)
        chunk_turn(y, e + whole, scale, element_at(x, whole, dtype), base, sum, rest, dtype);
    return (struct softmax_state){ m, chunk_sum(sum) };
}

/* Store a block's e: (cols) times scale. */
INLINE void block_store(struct stream *y, const float *e, float scale, int64_t cols, enum dtype dtype)
{
    for (int64_t col = 0; col < cols; col += CHUNK)
        chunk_store(y, e + col, scale, (int)(cols - col < CHUNK ? cols - col : CHUNK), dtype);
}

/* scale: (blocks) = exp(m_b - m) / l: what makes results of each block's exponentials. */
INLINE void row_scale(float *restrict scale, const struct softmax_state *block, int64_t blocks)
{
    if (blocks == 1) { /* the short way, for short rows */
        scale[0] = 1.0f / block[0].l;
        return;
    }
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

/* One thread's share: rows first ... last - 1 of x, y: (rows, cols). Row r is stored when row r + slots takes its slot. */
INLINE void share_softmax(void *y, const void *x, int64_t first, int64_t last, int64_t cols, enum dtype dtype)
{
    int64_t blocks = (cols + BLOCK - 1) / BLOCK, width = (cols + CHUNK - 1) / CHUNK * CHUNK;
    int64_t slots = cols < WAIT ? WAIT / cols : 1;
    float *e = aligned_alloc(LINE, (size_t)(slots * width) * sizeof *e);
    float *scale = malloc((size_t)(slots * blocks) * sizeof *scale);
    struct softmax_state *block = malloc((size_t)blocks * sizeof *block);
    if (!e || !scale || !block)
        fatal("no memory for a scratch row of %lld columns", (long long)cols);

    struct stream out = stream_open(element_at(y, first * cols, dtype));
    for (int64_t row = first, slot = 0; row < last + slots && first < last; row++, slot = slot + 1 < slots ? slot + 1 : 0) {
        float *old_e = e + slot * width, *old_scale = scale + slot * blocks;
        bool old = row - slots >= first; /* there is an older row in this slot */
        for (int64_t b = 0; b < blocks; b++) {
            int64_t left = b * BLOCK, n = cols - left < BLOCK ? cols - left : BLOCK;
            const void *from = element_at(x, row * cols + left, dtype);
            if (row < last)
                block[b] = block_turn(old ? &out : NULL, old_e + left, old_scale[b], from, columns_max(from, n, dtype), n, dtype);
            else if (old) /* no rows left to compute, only to store */
                block_store(&out, old_e + left, old_scale[b], n, dtype);
        }
        if (row < last)
            row_scale(old_scale, block, blocks);
    }
    stream_close(&out);
    free(e);
    free(scale);
    free(block);
}

/* Compute the results of a block, x: (cols), again, with its maximum m, and store them. */
INLINE void block_again(struct stream *y, float scale, const void *x, float m, int64_t cols, enum dtype dtype)
{
    int64_t whole = cols - cols % CHUNK;
    int rest = (int)(cols - whole);
    float e[CHUNK], sum[CHUNK] = { 0 }, base = m == -INFINITY ? 0.0f : m;
    for (int64_t col = 0; col < whole; col += CHUNK) {
        chunk_turn(NULL, e, 0.0f, element_at(x, col, dtype), base, sum, CHUNK, dtype);
        chunk_store(y, e, scale, CHUNK, dtype);
    }
    if (rest) {
        chunk_turn(NULL, e, 0.0f, element_at(x, whole, dtype), base, sum, rest, dtype);
        chunk_store(y, e, scale, rest, dtype);
    }
}

/* Blocks first ... last - 1 of a row, x: (cols): their states; or, with a y: (cols), their results. */
INLINE void part_softmax(void *y, const void *x, int64_t cols, int64_t first, int64_t last, struct softmax_state *block,
                         const float *scale, enum dtype dtype)
{
    float e[BLOCK];
    struct stream out = stream_open(y ? element_at(y, first * BLOCK, dtype) : NULL);
    for (int64_t b = first; b < last; b++) {
        int64_t left = b * BLOCK, n = cols - left < BLOCK ? cols - left : BLOCK;
        const void *from = element_at(x, left, dtype);
        if (y)
            block_again(&out, scale[b], from, block[b].m, n, dtype);
        else
            block[b] = block_turn(NULL, e, 0.0f, from, columns_max(from, n, dtype), n, dtype);
    }
    if (y)
        stream_close(&out);
}

/*
 * All threads share each row, a part of its blocks each: first its states, and when all are known its results. The states and
 * scales of a row's blocks lie in scratch(), memory that is kept from call to call.
 */
static void shared_softmax(void *y, const void *x, int64_t rows, int64_t cols, enum dtype dtype)
{
    int64_t blocks = (cols + BLOCK - 1) / BLOCK, threads = cpu_threads();
    struct softmax_state *block = scratch((size_t)blocks * (sizeof *block + sizeof(float)));
    float *scale = (float *)(block + blocks);
    for (int64_t turn = 0; turn < 2 * rows; turn++) {
        const void *in = element_at(x, turn / 2 * cols, dtype);
        void *out = turn % 2 ? element_at(y, turn / 2 * cols, dtype) : NULL;
        if (out)
            row_scale(scale, block, blocks);
#pragma omp parallel for
        for (int64_t t = 0; t < threads; t++) {
            int64_t first = blocks * t / threads, last = blocks * (t + 1) / threads;
            switch (dtype) {
            case FP16: part_softmax(out, in, cols, first, last, block, scale, FP16); break;
            case BF16: part_softmax(out, in, cols, first, last, block, scale, BF16); break;
            default:   part_softmax(out, in, cols, first, last, block, scale, FP32); break;
            }
        }
    }
}

/*
 * Threads share rows if there are fewer rows than threads, or if a row takes more than twice a core's own cache, the second level
 * (or two megabytes, where its size cannot be told): up to there it is faster to compute each exponential once, as step 07 does.
 */
static bool rows_are_shared(int64_t rows, int64_t cols)
{
    int64_t cache = cpu_cache_bytes(2), most = cache ? 2 * cache : 2 << 20;
    return rows < cpu_threads() || cols > most / (int64_t)sizeof(float);
}

/* x, y: (rows, cols), row-major. Each row of y is the softmax of that row of x. Each thread takes neighbouring rows. */
static void softmax(void *y, const void *x, int64_t rows, int64_t cols, enum dtype dtype)
{
    if (rows_are_shared(rows, cols)) {
        shared_softmax(y, x, rows, cols, dtype);
        return;
    }
    int64_t threads = cpu_threads();
#pragma omp parallel for
    for (int64_t t = 0; t < threads; t++) {
        int64_t first = rows * t / threads, last = rows * (t + 1) / threads;
        switch (dtype) { /* a copy of the code for each */
        case FP16: share_softmax(y, x, first, last, cols, FP16); break;
        case BF16: share_softmax(y, x, first, last, cols, BF16); break;
        default:   share_softmax(y, x, first, last, cols, FP32); break;
        }
    }
}

void split_softmax_cpu(float *y, const float *x, int64_t rows, int64_t cols)
{
    softmax(y, x, rows, cols, FP32);
}

void split_softmax_fp16_cpu(fp16 *y, const fp16 *x, int64_t rows, int64_t cols)
{
    softmax(y, x, rows, cols, FP16);
}

void split_softmax_bf16_cpu(bf16 *y, const bf16 *x, int64_t rows, int64_t cols)
{
    softmax(y, x, rows, cols, BF16);
}

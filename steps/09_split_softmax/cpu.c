/*
 * Step 09, split softmax: a row too long for one core's cache, shared by all cores.
 *
 * Threads take parts of the same row, whole blocks of it. Each finds the states of its blocks; a barrier; every thread merges the
 * states of the row, in the same order, so that the result does not depend on how many threads there are; each stores its part.
 * A part is read twice. The second reading costs nothing while the caches of all cores together hold the row; beyond
 * that it is a trip, the price of a row that fits nowhere. Shorter rows go to a thread each, without a barrier.
 *
 * Trips over the tensor: 2 reads, 1 write; 1 read, 1 write where the caches hold the row. Exponentials per element: 2.
 * Changed since step 07: threads share a row; exponentials are computed again, not kept.
 */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "chunk.h"
#include "machine.h"
#include "merge.h"
#include "steps.h"
#include "vexp.h"

#ifdef _OPENMP
#include <omp.h>
#else /* one thread */
static int omp_get_thread_num(void)
{
    return 0;
}

static int omp_get_num_threads(void)
{
    return 1;
}
#endif

#define BLOCK 512  /* columns that share a maximum: they stay in the first-level cache */
#define AHEAD 3072 /* bytes from what is computed to what is fetched: farther than a page (4096) was slower */

/* e: (CHUNK) = exp(x - m), x: (cols), while what comes next is fetched. */
INLINE void chunk_exp(float *restrict e, const void *x, float m, int cols, enum dtype dtype)
{
    float spare[CHUNK];
    prefetch_bytes((const char *)x + AHEAD, CHUNK * element_bytes(dtype));
    const float *v = chunk_load(spare, x, cols, dtype);
#pragma omp simd
    for (int i = 0; i < CHUNK; i++)
        e[i] = vexp(v[i] - m);
}

/* sum: (CHUNK), each with exp(x - m) of its column of x: (cols) added. */
INLINE void chunk_add(float *restrict sum, const void *x, float m, int cols, enum dtype dtype)
{
    float e[CHUNK];
    chunk_exp(e, x, m, cols, dtype);
#pragma omp simd
    for (int i = 0; i < CHUNK; i++)
        sum[i] += e[i];
}

/* The state of a block, x: (cols). */
INLINE struct softmax_state block_state(const void *x, int64_t cols, enum dtype dtype)
{
    int64_t whole = cols - cols % CHUNK;
    int rest = (int)(cols - whole);
    float sum[CHUNK] = { 0 };
    float m = columns_max(x, cols, dtype), base = m == -INFINITY ? 0.0f : m; /* -inf - base must not be NaN */

    for (int64_t col = 0; col < whole; col += CHUNK)
        chunk_add(sum, element_at(x, col, dtype), base, CHUNK, dtype);
    if (rest)
        chunk_add(sum, element_at(x, whole, dtype), base, rest, dtype);
    return (struct softmax_state){ m, chunk_sum(sum) };
}

/* The rule, for all blocks of a row at once. Returns the row's maximum and, in *inverse, 1 / l. */
static float row_merge(float *inverse, const struct softmax_state *block, int64_t blocks)
{
    float m = -INFINITY;
    for (int64_t b = 0; b < blocks; b++)
        m = block[b].m > m ? block[b].m : m;
    double l = 0.0; /* a float that has grown large no longer sees the small numbers that are added to it */
    for (int64_t b = 0; b < blocks; b++)
        l += (double)block[b].l * vexp(block[b].m - m);
    *inverse = (float)(1.0 / l);
    return m;
}

/* y = exp(x - m) * inverse, x: (cols). */
INLINE void part_store(struct stream *y, const void *x, float m, float inverse, int64_t cols, enum dtype dtype)
{
    int64_t whole = cols - cols % CHUNK;
    int rest = (int)(cols - whole);
    float e[CHUNK];
    for (int64_t col = 0; col < whole; col += CHUNK) {
        chunk_exp(e, element_at(x, col, dtype), m, CHUNK, dtype);
        chunk_store(y, e, inverse, CHUNK, dtype);
    }
    if (rest) {
        chunk_exp(e, element_at(x, whole, dtype), m, rest, dtype);
        chunk_store(y, e, inverse, rest, dtype);
    }
}

static void wait_for_all(void)
{
#ifdef _OPENMP
#pragma omp barrier
#endif
}

/* What one of the threads does. state: as states_new makes it, for all of them. */
INLINE void thread_softmax(void *y, const void *x, int64_t rows, int64_t cols, bool shared, struct softmax_state *state,
                           enum dtype dtype)
{
    int64_t me = omp_get_thread_num(), threads = omp_get_num_threads(), blocks = (cols + BLOCK - 1) / BLOCK;
    int64_t row = shared ? 0 : rows * me / threads, last = shared ? rows : rows * (me + 1) / threads;
    int64_t b0 = shared ? blocks * me / threads : 0, b1 = shared ? blocks * (me + 1) / threads : blocks;
    int64_t left = b0 * BLOCK, right = b1 * BLOCK < cols ? b1 * BLOCK : cols; /* the columns of a row that are this thread's */

    struct stream out = stream_open(element_at(y, row * cols + left, dtype));
    for (; row < last; row++) {
        /* Rows that are shared take turns between two sets of states: nobody overwrites what another thread still reads. */
        struct softmax_state *block = state + (shared ? row % 2 : me) * blocks;
        const void *in = element_at(x, row * cols, dtype);
        for (int64_t b = b0; b < b1; b++) {
            int64_t n = cols - b * BLOCK < BLOCK ? cols - b * BLOCK : BLOCK;
            block[b] = block_state(element_at(in, b * BLOCK, dtype), n, dtype);
        }
        if (shared) {
            stream_close(&out);
            out = stream_open(element_at(y, row * cols + left, dtype));
            wait_for_all();
        }
        float inverse, m = row_merge(&inverse, block, blocks);
        part_store(&out, element_at(in, left, dtype), m, inverse, right - left, dtype);
    }
    stream_close(&out);
}

/*
 * Threads share rows if there are fewer rows than threads, or if a row takes more than half of a core's own cache, the second
 * level (or half a megabyte, where its size cannot be told): the other half is for what is fetched next.
 */
static bool rows_are_shared(int64_t rows, int64_t cols)
{
    int64_t cache = cpu_cache_bytes(2), half = cache ? cache / 2 : 512 << 10;
    return rows < cpu_threads() || cols > half / (int64_t)sizeof(float);
}

/* (2 or threads, blocks of a row), whichever is more: two sets for rows that are shared, one a thread for others. */
static struct softmax_state *states_new(int64_t cols)
{
    int64_t sets = cpu_threads() > 2 ? cpu_threads() : 2, blocks = (cols + BLOCK - 1) / BLOCK;
    struct softmax_state *state = malloc((size_t)(sets * blocks) * sizeof *state);
    if (!state)
        fatal("no memory for the states of %lld columns", (long long)cols);
    return state;
}

/* x, y: (rows, cols), row-major. Each row of y is the softmax of that row of x. */
void split_softmax_cpu(float *y, const float *x, int64_t rows, int64_t cols)
{
    struct softmax_state *state = states_new(cols);
    bool shared = rows_are_shared(rows, cols);
#pragma omp parallel
    thread_softmax(y, x, rows, cols, shared, state, FP32);
    free(state);
}

void split_softmax_fp16_cpu(fp16 *y, const fp16 *x, int64_t rows, int64_t cols)
{
    struct softmax_state *state = states_new(cols);
    bool shared = rows_are_shared(rows, cols);
#pragma omp parallel
    thread_softmax(y, x, rows, cols, shared, state, FP16);
    free(state);
}

void split_softmax_bf16_cpu(bf16 *y, const bf16 *x, int64_t rows, int64_t cols)
{
    struct softmax_state *state = states_new(cols);
    bool shared = rows_are_shared(rows, cols);
#pragma omp parallel
    thread_softmax(y, x, rows, cols, shared, state, BF16);
    free(state);
}

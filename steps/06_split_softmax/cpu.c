/*
 * Step 06, split softmax: a row too long for one core's cache, shared by all of them.
 *
 * Threads take parts of the same row, whole blocks of it. Each finds the states of its blocks; a barrier; the states of the row
 * are merged (by every thread, in the same order, so that the result does not depend on how many there are); each stores its part.
 * A part is read twice. The second reading is free as long as the cores' caches together hold the row; beyond that it is
 * a trip, the price of a row that fits nowhere. Shorter rows go to a thread each, without a barrier.
 *
 * Trips over the tensor: 2 reads, 1 write; 1 read, 1 write where the caches hold the row. Exponentials per element: 2.
 * Changed since step 05: threads share a row; exponentials are computed again instead of kept.
 */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "common.h"
#include "merge.h"
#include "steps.h"
#include "stream.h"
#include "vexp.h"

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
#endif

#ifndef CHUNK
#define CHUNK 32   /* columns that are fetched, computed and stored in one turn; also the partial sums of a block */
#define BLOCK 512  /* columns that share a maximum: a multiple of CHUNK that stays in the first-level cache */
#define AHEAD 3072 /* bytes from what is computed to what is fetched: within the next page, which is as far as the hardware helps */
#endif

/* The functions below are compiled once for each element type: with `dtype` a constant, its branches are gone. */
#define INLINE static inline __attribute__((always_inline))

INLINE int64_t size_of(enum dtype dtype)
{
    return dtype == FP32 ? sizeof(float) : sizeof(fp16);
}

/* CHUNK floats from x: (cols) of type dtype, padded with -inf, which counts for nothing. In place where that is possible. */
INLINE const float *chunk_load(float *spare, const void *x, int64_t cols, enum dtype dtype)
{
    if (dtype == FP32 && cols >= CHUNK)
        return x;
    for (int i = 0; i < CHUNK; i++)
        spare[i] = i >= cols       ? -INFINITY
                   : dtype == FP32 ? ((const float *)x)[i]
                   : dtype == FP16 ? fp16_to_float(((const fp16 *)x)[i])
                                   : bf16_to_float(((const bf16 *)x)[i]);
    return spare;
}

/* Append e, the first `cols` of CHUNK columns, to y. */
INLINE void chunk_store(struct stream *y, const float *e, int64_t cols, enum dtype dtype)
{
    union {
        float fp32[CHUNK];
        fp16 fp16[CHUNK];
        bf16 bf16[CHUNK];
    } out;
    for (int i = 0; i < CHUNK; i++)
        if (dtype == FP32)
            out.fp32[i] = e[i];
        else if (dtype == FP16)
            out.fp16[i] = float_to_fp16(e[i]);
        else
            out.bf16[i] = float_to_bf16(e[i]);
    if (cols >= CHUNK)
        stream_put(y, &out, (size_t)(CHUNK * size_of(dtype))); /* a size that the compiler knows */
    else
        stream_put(y, &out, (size_t)(cols * size_of(dtype)));
}

/* The state of x: (cols), cols <= BLOCK. */
INLINE struct softmax_state block_state(const void *x, int64_t cols, enum dtype dtype)
{
    float spare[CHUNK], top[CHUNK], sum[CHUNK];
    for (int i = 0; i < CHUNK; i++) {
        top[i] = -INFINITY;
        sum[i] = 0.0f;
    }
    for (int64_t col = 0; col < cols; col += CHUNK) {
        const float *v = chunk_load(spare, (const char *)x + col * size_of(dtype), cols - col, dtype);
#pragma omp simd
        for (int i = 0; i < CHUNK; i++)
            top[i] = v[i] > top[i] ? v[i] : top[i];
    }
    for (int half = CHUNK / 2; half > 0; half /= 2)
#pragma omp simd
        for (int i = 0; i < half; i++)
            top[i] = top[i + half] > top[i] ? top[i + half] : top[i];
    float base = top[0] == -INFINITY ? 0.0f : top[0]; /* -inf - base must not be NaN */

    for (int64_t col = 0; col < cols; col += CHUNK) {
        const char *from = (const char *)x + col * size_of(dtype);
        prefetch_bytes(from + AHEAD, (size_t)(CHUNK * size_of(dtype)));
        const float *v = chunk_load(spare, from, cols - col, dtype);
#pragma omp simd
        for (int i = 0; i < CHUNK; i++)
            sum[i] += vexp(v[i] - base);
    }
    for (int half = CHUNK / 2; half > 0; half /= 2)
#pragma omp simd
        for (int i = 0; i < half; i++)
            sum[i] += sum[i + half];
    return (struct softmax_state){ top[0], sum[0] };
}

/* The rule, for all of a row's blocks at once. m: the row's maximum; returns 1 / l. */
static float row_merge(float *m, const struct softmax_state *block, int64_t blocks)
{
    float top = -INFINITY;
    for (int64_t b = 0; b < blocks; b++)
        top = block[b].m > top ? block[b].m : top;
    double l = 0.0; /* a float that has grown large no longer sees the small numbers that are added to it */
    for (int64_t b = 0; b < blocks; b++)
        l += (double)block[b].l * vexp(block[b].m - top);
    *m = top;
    return (float)(1.0 / l);
}

/* y = exp(x - m) * inverse, for x, y: (cols). */
INLINE void part_store(void *y, const void *x, float m, float inverse, int64_t cols, enum dtype dtype)
{
    float spare[CHUNK], e[CHUNK];
    struct stream out = stream_open(y);
    for (int64_t col = 0; col < cols; col += CHUNK) {
        const char *from = (const char *)x + col * size_of(dtype);
        prefetch_bytes(from + AHEAD, (size_t)(CHUNK * size_of(dtype)));
        const float *v = chunk_load(spare, from, cols - col, dtype);
#pragma omp simd
        for (int i = 0; i < CHUNK; i++)
            e[i] = vexp(v[i] - m) * inverse;
        chunk_store(&out, e, cols - col, dtype);
    }
    stream_close(&out);
}

/* What one of the threads does. state: (threads + 1, blocks of a row), for all of them. */
INLINE void thread_softmax(void *y, const void *x, int64_t rows, int64_t cols, bool shared, struct softmax_state *state, enum dtype dtype)
{
    int64_t me = omp_get_thread_num(), threads = omp_get_num_threads(), blocks = (cols + BLOCK - 1) / BLOCK;
    int64_t first = shared ? 0 : rows * me / threads, last = shared ? rows : rows * (me + 1) / threads;
    int64_t begin = shared ? blocks * me / threads : 0, end = shared ? blocks * (me + 1) / threads : blocks;
    int64_t left = begin * BLOCK, right = end * BLOCK < cols ? end * BLOCK : cols; /* columns of a row that are this thread's */

    for (int64_t row = first; row < last; row++) {
        /* Shared rows take turns between two sets of states: nobody writes into one that another thread still reads. */
        struct softmax_state *block = state + (shared ? row % 2 : me) * blocks;
        const char *in = (const char *)x + row * cols * size_of(dtype);
        for (int64_t b = begin; b < end; b++)
            block[b] = block_state(in + b * BLOCK * size_of(dtype), cols - b * BLOCK < BLOCK ? cols - b * BLOCK : BLOCK, dtype);
        if (shared) {
#pragma omp barrier
        }
        float m, inverse = row_merge(&m, block, blocks);
        part_store((char *)y + (row * cols + left) * size_of(dtype), in + left * size_of(dtype), m, inverse, right - left, dtype);
    }
}

/*
 * Threads share a row if there are fewer rows than threads, or if a row leaves no room in a core's own cache for
 * what is fetched next: more than half of the second level. (Half a megabyte, where the size cannot be told.)
 */
static bool row_is_shared(int64_t rows, int64_t bytes)
{
    int64_t cache = cpu_cache_bytes(2);
    return rows < cpu_threads() || bytes > (cache ? cache / 2 : 512 << 10);
}

static struct softmax_state *states_new(int64_t cols)
{
    struct softmax_state *state = malloc((size_t)((cpu_threads() + 1) * (cols / BLOCK + 1)) * sizeof *state);
    if (!state)
        fatal("no memory for the states of %lld columns", (long long)cols);
    return state;
}

/* x, y: (rows, cols), row-major. Each row of y is the softmax of that row of x. */
void split_softmax_cpu(float *y, const float *x, int64_t rows, int64_t cols)
{
    struct softmax_state *state = states_new(cols);
    bool shared = row_is_shared(rows, cols * (int64_t)sizeof *x);
#pragma omp parallel
    thread_softmax(y, x, rows, cols, shared, state, FP32);
    free(state);
}

void split_softmax_fp16_cpu(fp16 *y, const fp16 *x, int64_t rows, int64_t cols)
{
    struct softmax_state *state = states_new(cols);
    bool shared = row_is_shared(rows, cols * (int64_t)sizeof *x);
#pragma omp parallel
    thread_softmax(y, x, rows, cols, shared, state, FP16);
    free(state);
}

void split_softmax_bf16_cpu(bf16 *y, const bf16 *x, int64_t rows, int64_t cols)
{
    struct softmax_state *state = states_new(cols);
    bool shared = row_is_shared(rows, cols * (int64_t)sizeof *x);
#pragma omp parallel
    thread_softmax(y, x, rows, cols, shared, state, BF16);
    free(state);
}

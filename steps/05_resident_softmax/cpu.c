/*
 * Step 05, resident softmax: fetch a row from memory once, keep it in the cache, store it once.
 *
 * Step 04 reads a row a second time because it threw the exponentials away. Here they stay, in a scratch row in the cache, each
 * relative to its block's own maximum; once the row's (m, l) is known, block b is stored times exp(m_b - m) / l: the
 * merge rule again, applied to a whole block of results.
 *
 * A core that fetches, then computes, then stores leaves memory idle two thirds of the time. So a thread works on three rows at once, a
 * chunk of each in turn: it asks for a chunk of the row to come, computes one of this row, and stores the chunk of an older row
 * which lay in that place of the scratch. Results go past the caches: nobody here reads them again.
 *
 * Trips over the tensor: 1 read, 1 write. Exponentials per element: 1.
 * Changed since step 04: the scratch rows, the prefetch, the streamed stores, and fp16 and bf16 (computed in fp32).
 */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "common.h"
#include "merge.h"
#include "steps.h"
#include "stream.h"
#include "vexp.h"

#define CHUNK 32   /* columns that are fetched, computed and stored in one turn; also the partial sums of a block */
#define BLOCK 512  /* columns that share a maximum: a multiple of CHUNK that stays in the first-level cache */
#define AHEAD 3072 /* bytes from what is computed to what is fetched: within the next page, which is as far as the hardware helps */
#define WAIT 1024  /* columns, at least, between computing and storing: several short rows, whose sums then need not hurry */

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

/* Append e * scale, the first `cols` of CHUNK columns, to y. */
INLINE void chunk_store(struct stream *y, const float *e, float scale, int64_t cols, enum dtype dtype)
{
    union {
        float fp32[CHUNK];
        fp16 fp16[CHUNK];
        bf16 bf16[CHUNK];
    } out;
    for (int i = 0; i < CHUNK; i++)
        if (dtype == FP32)
            out.fp32[i] = e[i] * scale;
        else if (dtype == FP16)
            out.fp16[i] = float_to_fp16(e[i] * scale);
        else
            out.bf16[i] = float_to_bf16(e[i] * scale);
    if (cols >= CHUNK)
        stream_put(y, &out, (size_t)(CHUNK * size_of(dtype))); /* a size that the compiler knows */
    else
        stream_put(y, &out, (size_t)(cols * size_of(dtype)));
}

/* e: (BLOCK) = exp(x - m), m the maximum of x: (cols). What was in e before goes to y, times scale, unless y is NULL. */
INLINE struct softmax_state block_exp(struct stream *y, float *restrict e, float scale, const void *x, int64_t cols, enum dtype dtype)
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
        if (y)
            chunk_store(y, e + col, scale, cols - col, dtype);
        const float *v = chunk_load(spare, from, cols - col, dtype);
#pragma omp simd
        for (int i = 0; i < CHUNK; i++) {
            float p = vexp(v[i] - base);
            e[col + i] = p;
            sum[i] += p;
        }
    }
    for (int half = CHUNK / 2; half > 0; half /= 2)
#pragma omp simd
        for (int i = 0; i < half; i++)
            sum[i] += sum[i + half];
    return (struct softmax_state){ top[0], sum[0] };
}

/* scale: (blocks) = exp(m_b - m) / l: what turns the exponentials of each block into results. */
static void row_scale(float *restrict scale, const struct softmax_state *block, int64_t blocks)
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

/* One thread's share: rows first ... last - 1 of x and y, (rows, cols). */
INLINE void share_softmax(void *y, const void *x, int64_t first, int64_t last, int64_t cols, enum dtype dtype)
{
    if (first >= last)
        return;
    int64_t blocks = (cols + BLOCK - 1) / BLOCK, width = (cols + CHUNK - 1) / CHUNK * CHUNK;
    int64_t slots = WAIT / cols > 1 ? WAIT / cols : 1; /* row r is stored when row r + slots takes its slot */
    float *e = aligned_alloc(LINE, (size_t)(slots * width) * sizeof *e);
    float *scale = malloc((size_t)(slots * blocks) * sizeof *scale);
    struct softmax_state *block = malloc((size_t)blocks * sizeof *block);
    if (!e || !scale || !block)
        fatal("no memory for a scratch row of %lld columns", (long long)cols);

    struct stream out = stream_open((char *)y + first * cols * size_of(dtype));
    for (int64_t row = first; row < last + slots; row++) {
        int64_t slot = (row - first) % slots;
        float *es = e + slot * width, *ss = scale + slot * blocks;
        bool old = row - slots >= first; /* there is an older row in the slot */
        for (int64_t b = 0; b < blocks; b++) {
            int64_t col = b * BLOCK, n = cols - col < BLOCK ? cols - col : BLOCK;
            const char *from = (const char *)x + (row * cols + col) * size_of(dtype);
            if (row < last)
                block[b] = block_exp(old ? &out : NULL, es + col, ss[b], from, n, dtype);
            else if (old)
                for (int64_t i = 0; i < n; i += CHUNK)
                    chunk_store(&out, es + col + i, ss[b], n - i, dtype);
        }
        if (row < last)
            row_scale(ss, block, blocks);
    }
    stream_close(&out);
    free(e);
    free(scale);
    free(block);
}

/* x, y: (rows, cols), row-major. Each row of y is the softmax of that row of x. */
void resident_softmax_cpu(float *y, const float *x, int64_t rows, int64_t cols)
{
    int64_t threads = cpu_threads();
#pragma omp parallel for
    for (int64_t t = 0; t < threads; t++)
        share_softmax(y, x, rows * t / threads, rows * (t + 1) / threads, cols, FP32);
}

void resident_softmax_fp16_cpu(fp16 *y, const fp16 *x, int64_t rows, int64_t cols)
{
    int64_t threads = cpu_threads();
#pragma omp parallel for
    for (int64_t t = 0; t < threads; t++)
        share_softmax(y, x, rows * t / threads, rows * (t + 1) / threads, cols, FP16);
}

void resident_softmax_bf16_cpu(bf16 *y, const bf16 *x, int64_t rows, int64_t cols)
{
    int64_t threads = cpu_threads();
#pragma omp parallel for
    for (int64_t t = 0; t < threads; t++)
        share_softmax(y, x, rows * t / threads, rows * (t + 1) / threads, cols, BF16);
}

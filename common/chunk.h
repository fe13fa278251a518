/*
 * A chunk: CHUNK neighbouring columns of any element type, computed as floats. From step 05 on softmax is computed in chunks: a
 * few vector registers on any CPU, and one or two cache lines.
 *
 * `dtype` is FP32, FP16 or BF16, and a constant where these functions are called: they are compiled into their callers, once for
 * each type, without its branches.
 */
#ifndef CHUNK_H
#define CHUNK_H

#include <math.h>

#include "half.h"
#include "stream.h"
#include "types.h"

#define CHUNK 32

#define INLINE static inline __attribute__((always_inline))

INLINE size_t element_bytes(enum dtype dtype)
{
    return dtype == FP32 ? sizeof(float) : sizeof(fp16);
}

/* The address of x[i]. */
INLINE char *element_at(const void *x, int64_t i, enum dtype dtype)
{
    return (char *)x + i * (int64_t)element_bytes(dtype);
}

/* x: (cols), cols <= CHUNK, as CHUNK floats, in place or in `spare`. What is missing is -inf, which counts for nothing. */
INLINE const float *chunk_load(float *restrict spare, const void *restrict x, int cols, enum dtype dtype)
{
    uint16_t copy[CHUNK];
    if (dtype == FP32 && cols == CHUNK)
        return x;
    if (dtype != FP32 && cols < CHUNK)
        x = memcpy(copy, x, (size_t)cols * sizeof *copy);
    if (dtype == FP16)
        fp16_to_floats(spare, x, CHUNK);
    if (dtype == BF16)
        bf16_to_floats(spare, x, CHUNK);
    const float *v = dtype == FP32 ? x : spare;
    if (cols < CHUNK)
#pragma omp simd
        for (int i = 0; i < CHUNK; i++)
            spare[i] = i < cols ? v[i] : -INFINITY;
    return spare;
}

/* Append the first `cols` columns of v * scale to y. */
INLINE void chunk_store(struct stream *y, const float *restrict v, float scale, int cols, enum dtype dtype)
{
    float scaled[CHUNK];
    uint16_t half[CHUNK];
#pragma omp simd
    for (int i = 0; i < CHUNK; i++)
        scaled[i] = v[i] * scale;
    if (dtype == FP16)
        floats_to_fp16((fp16 *)half, scaled, CHUNK);
    if (dtype == BF16)
        floats_to_bf16((bf16 *)half, scaled, CHUNK);
    stream_put(y, dtype == FP32 ? (void *)scaled : (void *)half, (size_t)cols * element_bytes(dtype));
}

/* Fold v: (2 half) onto its first half. */
INLINE void fold_max(float *v, int half)
{
#pragma omp simd
    for (int i = 0; i < half; i++)
        v[i] = v[i + half] > v[i] ? v[i + half] : v[i];
}

INLINE void fold_sum(float *v, int half)
{
#pragma omp simd
    for (int i = 0; i < half; i++)
        v[i] += v[i + half];
}

/* The largest, and the sum, of v: (CHUNK), which is used up. (Written out: compilers do not unroll a loop over halves.) */
INLINE float chunk_max(float *v)
{
    fold_max(v, 16), fold_max(v, 8), fold_max(v, 4), fold_max(v, 2), fold_max(v, 1);
    return v[0];
}

INLINE float chunk_sum(float *v)
{
    fold_sum(v, 16), fold_sum(v, 8), fold_sum(v, 4), fold_sum(v, 2), fold_sum(v, 1);
    return v[0];
}

/* top: (CHUNK), each the larger of itself and its column of x: (cols), cols <= CHUNK. */
INLINE void chunk_raise(float *restrict top, const void *x, int cols, enum dtype dtype)
{
    float spare[CHUNK];
    const float *v = chunk_load(spare, x, cols, dtype);
#pragma omp simd
    for (int i = 0; i < CHUNK; i++)
        top[i] = v[i] > top[i] ? v[i] : top[i];
}

/* The maximum of x: (cols), for any cols. */
INLINE float columns_max(const void *x, int64_t cols, enum dtype dtype)
{
    int64_t whole = cols - cols % CHUNK;
    float top[CHUNK];
    for (int i = 0; i < CHUNK; i++)
        top[i] = -INFINITY;
    for (int64_t col = 0; col < whole; col += CHUNK)
        chunk_raise(top, element_at(x, col, dtype), CHUNK, dtype);
    if (whole < cols)
        chunk_raise(top, element_at(x, whole, dtype), (int)(cols - whole), dtype);
    return chunk_max(top);
}

_Static_assert(CHUNK == 32, "chunk_max and chunk_sum fold 32 numbers");

#endif

/*
 * As many floats as a register holds, loaded from memory of any element type: for loops over a row of K or V that a compiler
 * would not vectorise as it should, fp16 above all.
 *
 * `dtype` is FP32, FP16 or BF16, and a constant where these functions are called, as in chunk.h.
 */
#ifndef FLOATS_H
#define FLOATS_H

#include <string.h>

#include "chunk.h"

#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif

typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef float four __attribute__((vector_size(16)));

/* y: (n), floats = x, of any type; and y, of any type, = x: (n), floats. */
INLINE void floats_of(float *y, const void *x, int64_t n, enum dtype dtype)
{
    switch (dtype) {
    case FP16: fp16_to_floats(y, x, (int)n); break;
    case BF16: bf16_to_floats(y, x, (int)n); break;
    default:   memcpy(y, x, (size_t)n * sizeof *y); break;
    }
}

INLINE void floats_to(void *y, const float *x, int64_t n, enum dtype dtype)
{
    switch (dtype) {
    case FP16: floats_to_fp16(y, x, (int)n); break;
    case BF16: floats_to_bf16(y, x, (int)n); break;
    default:   memcpy(y, x, (size_t)n * sizeof *x); break;
    }
}

/* x[i] to x[i + WIDTH - 1], wherever they lie. */
INLINE floats floats_at(const void *x, int64_t i, enum dtype dtype)
{
    float out[WIDTH];
    floats v;
    floats_of(out, element_at(x, i, dtype), WIDTH, dtype);
    memcpy(&v, out, sizeof v);
    return v;
}

/* x[i] to x[end - 1], of which there are fewer than WIDTH, and zeros. */
INLINE floats floats_until(const void *x, int64_t i, int64_t end, enum dtype dtype)
{
    char copy[4 * WIDTH] = { 0 };
    memcpy(copy, element_at(x, i, dtype), (size_t)(end - i) * element_bytes(dtype));
    return floats_at(copy, 0, dtype);
}

/* The sum of all, halves onto halves. */
INLINE float floats_sum(floats v)
{
    float x[WIDTH];
    four sum;
    memcpy(x, &v, sizeof x);
    for (int half = WIDTH / 2; half >= 4; half /= 2)
#pragma omp simd
        for (int i = 0; i < half; i++)
            x[i] += x[i + half];
    memcpy(&sum, x, sizeof sum);
    sum += (four){ sum[2], sum[3], sum[0], sum[1] };
    return sum[0] + sum[1];
}

#endif

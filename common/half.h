/*
 * The 16-bit types in plain C: conversions that every compiler takes and that a loop of them vectorises (no branch, no table).
 *
 * To the narrower type they round to nearest, ties to even, as the hardware does.
 */
#ifndef HALF_H
#define HALF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "types.h"

static inline float float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t bits_of_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/*
 * The bits of an fp16, moved to a float's place, make a float that is 2^112 too small (the exponents' biases are 15 and
 * 127): one multiplication repairs that, subnormals included. Infinity and NaN have the largest exponent of their type.
 */
static inline float fp16_to_float(fp16 h)
{
    uint32_t magnitude = (uint32_t)(h.bits & 0x7fff) << 13, sign = (uint32_t)(h.bits & 0x8000) << 16;
    float scaled = float_of_bits(magnitude) * 0x1p112f;
    uint32_t special = (uint32_t)-(magnitude >= 0x7c00u << 13) & 0x7f800000;
    return float_of_bits(bits_of_float(scaled) | special | sign);
}

static inline fp16 float_to_fp16(float x)
{
    uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    /* Normal results: round the 13 bits that go, to even, and change the bias. Too large: infinity. */
    uint32_t normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
    /* Subnormal results: adding 0.5 leaves multiples of 2^-24 in the low bits, rounded by the addition itself. */
    uint32_t subnormal = bits_of_float(float_of_bits(magnitude) + 0.5f) - bits_of_float(0.5f);
    uint32_t result = magnitude < 113u << 23 ? subnormal : normal;
    result = magnitude >= 0x477ff000 ? 0x7c00 : result; /* 65520, halfway to 65536, and beyond */
    result = magnitude > 0x7f800000 ? 0x7e00 : result;  /* NaN */
    return (fp16){ (uint16_t)(sign | result) };
}

static inline float bf16_to_float(bf16 b)
{
    return float_of_bits((uint32_t)b.bits << 16);
}

static inline bf16 float_to_bf16(float x)
{
    uint32_t bits = bits_of_float(x), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (bf16){ (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded) };
}

/*
 * Doubles are rounded once: first to odd (what is cut off leaves a 1 in a float's last bit), which keeps apart what lies on and
 * beside the middle of two 16-bit numbers, and then from there. By way of the nearest float, 1 + 2^-11 + 2^-40 would become 1 +
 * 2^-11, a tie, and then 1. (Boldo, Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to
 * odd", 2008.)
 */
static inline float double_to_odd_float(double x)
{
    float nearest = (float)x;
    uint32_t bits = bits_of_float(nearest);
    bits -= fabs((double)nearest) > fabs(x); /* rounded up: cut off instead */
    return float_of_bits(bits | ((double)nearest != x));
}

static inline fp16 double_to_fp16(double x)
{
    return float_to_fp16(double_to_odd_float(x));
}

static inline bf16 double_to_bf16(double x)
{
    return float_to_bf16(double_to_odd_float(x));
}

/*
 * y = x for n elements. These loops vectorise as they stand, but fp16 has instructions of its own, which compilers do not find:
 * where this is compiled for a CPU that has them, they do all but the last few elements.
 */
static inline void fp16_to_floats(float *restrict y, const fp16 *restrict x, int n)
{
    int done = 0;
#if defined(__AVX512F__)
    for (; done + 16 <= n; done += 16)
        _mm512_storeu_ps(y + done, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(x + done))));
#elif defined(__F16C__)
    for (; done + 8 <= n; done += 8)
        _mm256_storeu_ps(y + done, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + done))));
#endif
#pragma omp simd
    for (int i = done; i < n; i++)
        y[i] = fp16_to_float(x[i]);
}

static inline void floats_to_fp16(fp16 *restrict y, const float *restrict x, int n)
{
    int done = 0;
#if defined(__AVX512F__)
    for (; done + 16 <= n; done += 16)
        _mm256_storeu_si256((__m256i *)(y + done), _mm512_cvtps_ph(_mm512_loadu_ps(x + done), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    for (; done + 8 <= n; done += 8)
        _mm_storeu_si128((__m128i *)(y + done), _mm256_cvtps_ph(_mm256_loadu_ps(x + done), _MM_FROUND_TO_NEAREST_INT));
#endif
#pragma omp simd
    for (int i = done; i < n; i++)
        y[i] = float_to_fp16(x[i]);
}

static inline void bf16_to_floats(float *restrict y, const bf16 *restrict x, int n)
{
    int done = 0;
#if defined(__AVX512F__) /* gcc makes six instructions of these two */
    for (; done + 16 <= n; done += 16) {
        __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(x + done)));
        _mm512_storeu_si512(y + done, _mm512_slli_epi32(words, 16));
    }
#endif
#pragma omp simd
    for (int i = done; i < n; i++)
        y[i] = bf16_to_float(x[i]);
}

static inline void floats_to_bf16(bf16 *restrict y, const float *restrict x, int n)
{
#pragma omp simd
    for (int i = 0; i < n; i++)
        y[i] = float_to_bf16(x[i]);
}

#endif

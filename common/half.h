/*
 * The 16-bit types in plain C: conversions that every compiler takes and that a loop of them vectorises (no branch, no table).
 *
 * To the narrower type they round to nearest, ties to even, as the hardware does.
 */
#ifndef HALF_H
#define HALF_H

#include <stdint.h>
#include <string.h>

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

#endif

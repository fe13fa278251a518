/*
 * vexp: e^x for floats, and vexp2: 2^x, as plain arithmetic that gcc and clang turn into vector instructions inside a loop marked
 * `#pragma omp simd`. libm's expf is a call, one element at a time, and ten times slower.
 *
 * Method. With n = round(x / ln 2) and r = x - n ln 2, so that |r| <= ln(2) / 2,
 *
 *     e^x = 2^n e^r        e^r = 1 + r (1 + r (C2 + r (C3 + r (C4 + r C5))))
 *
 * and 2^n is made of exponent bits. Source of the coefficients: fitted for this file, by linear programming over 4001 points
 * of |r| <= 1.0002 ln(2) / 2 for the least worst relative error, 1.05e-7, then rounded to float.
 *
 * Error, measured over every float: at most VEXP_ERROR relative for -87.3365 <= x <= 88.3762. Below, 0 (e^x would be subnormal);
 * vexp(-inf) is 0, and NaN stays NaN. Larger x are not for it: they give nonsense. A softmax has x <= 0.
 */
#ifndef VEXP_H
#define VEXP_H

#include "half.h"

#ifdef __FAST_MATH__
#error "vexp.h rounds by adding and subtracting a large number, which -ffast-math optimises away; the result would be wrong"
#endif

#define VEXP_ERROR 2e-7              /* worst relative error: 1.77e-7 with fused multiply-adds, 1.95e-7 without */
#define VEXP_SMALLEST -87.33654f     /* ln 2^-126: below, e^x is not a normal float */

#define VEXP_LOG2E 0x1.715476p+0f    /* 1 / ln 2 */
#define VEXP_LN2 0x1.62e43p-1f
#define VEXP_LN2_HIGH 0x1.62e4p-1f   /* ln 2, of which the upper part has 15 bits: times n it is exact */
#define VEXP_LN2_LOW 0x1.7f7d1cp-20f /* and the rest */
#define VEXP_ROUND (0x1.8p23f + 127.0f) /* a sum near this has no bits for a fraction; its low 8 bits are then n + 127 */

#define VEXP_C2 0x1.fffdfcp-2f
#define VEXP_C3 0x1.5557aep-3f
#define VEXP_C4 0x1.572a28p-5f
#define VEXP_C5 0x1.10626ap-7f

static inline float vexp(float x)
{
    float shifted = x * VEXP_LOG2E + VEXP_ROUND; /* its low bits are n + 127 */
    float n = shifted - VEXP_ROUND;
    float r = x - n * VEXP_LN2_HIGH;
    r = r - n * VEXP_LN2_LOW;
    float q = VEXP_C2 + r * (VEXP_C3 + r * (VEXP_C4 + r * VEXP_C5));
    float p = 1.0f + r * (1.0f + r * q);
    float y = p * float_of_bits(bits_of_float(shifted) << 23);
    return x < VEXP_SMALLEST ? 0.0f : y;
}

/*
 * 2^x for x below 127, to 2.1e-7 relative; 0 below 2^-126, anything above 127. The same method, with three operations less:
 * n = round(x), r = x - n. NaN stays NaN, whatever its bits, because the last operation is a product.
 */
static inline float vexp2(float x)
{
    x = x < -126.0f ? -127.0f : x; /* n = -127: the bits of 2^n are all 0, and so is the product */
    float shifted = x + VEXP_ROUND;
    float r = x - (shifted - VEXP_ROUND);
    float q = 0x1.ebf9c2p-3f + r * (0x1.c6b6dcp-5f + r * (0x1.3ce8bep-7f + r * 0x1.5bd88p-10f));
    float p = 1.0f + r * (0x1.62e42ap-1f + r * q);
    return p * float_of_bits(bits_of_float(shifted) << 23);
}

#endif

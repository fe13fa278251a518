/*
 * common/half.h against arithmetic: what a bit pattern means by the definition of its format, and rounding to the nearest
 * such number, ties to even, worked out in double.
 */
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "harness.h"
#include "half.h"
#include "suites.h"

/* A format with `fraction` bits after the point and exponents from `low` (of the smallest normal number) to `high`. */
struct format {
    int fraction, low, high;
};

static const struct format half = { 10, -14, 15 }, brain = { 7, -126, 127 };

/* What the 16 bits mean, straight from IEEE 754. */
static double meaning(uint16_t bits, struct format f)
{
    double sign = bits & 0x8000 ? -1 : 1;
    int exponent = (bits & 0x7fff) >> f.fraction, fraction = bits & ((1 << f.fraction) - 1);
    if (exponent == f.high - f.low + 2)
        return fraction ? NAN : sign * INFINITY;
    if (exponent == 0)
        return sign * ldexp(fraction, f.low - f.fraction);
    return sign * ldexp((1 << f.fraction) + fraction, f.low + exponent - 1 - f.fraction);
}

/* The nearest number of the format; rint() rounds ties to even. */
static double rounded(double x, struct format f)
{
    if (x == 0 || !isfinite(x))
        return x;
    int exponent;
    frexp(x, &exponent); /* |x| in [2^(exponent - 1), 2^exponent) */
    double step = ldexp(1, (exponent - 1 > f.low ? exponent - 1 : f.low) - f.fraction);
    double y = rint(x / step) * step;
    return fabs(y) >= ldexp(1, f.high + 1) ? copysign(INFINITY, x) : y;
}

static double through(float x, bool is_brain)
{
    return is_brain ? bf16_to_float(float_to_bf16(x)) : fp16_to_float(float_to_fp16(x));
}

static void assert_rounds(float x, bool is_brain)
{
    double want = rounded(x, is_brain ? brain : half), got = through(x, is_brain);
    REQUIRE(got == want && !signbit(got) == !signbit(want), "%s of %a is %a, not %a", is_brain ? "bf16" : "fp16", (double)x, got,
            want);
}

START_TEST(test_all_65536_mean_what_they_should)
{
    for (uint32_t bits = 0; bits < 65536; bits++) {
        double want = meaning((uint16_t)bits, _i ? brain : half);
        double got = _i ? bf16_to_float((bf16){ (uint16_t)bits }) : fp16_to_float((fp16){ (uint16_t)bits });
        REQUIRE(isnan(want) ? isnan(got) : got == want && !signbit(got) == !signbit(want), "%04x is %a, not %a", bits, got, want);
    }
}
END_TEST

START_TEST(test_all_65536_come_back)
{
    for (uint32_t bits = 0; bits < 65536; bits++) {
        double value = meaning((uint16_t)bits, _i ? brain : half);
        uint16_t back = _i ? float_to_bf16((float)value).bits : float_to_fp16((float)value).bits;
        if (isnan(value))
            REQUIRE(isnan(meaning(back, _i ? brain : half)), "the NaN %04x became %04x", bits, back);
        else
            REQUIRE(back == bits, "%04x became %04x", bits, back);
    }
}
END_TEST

/* Halfway between neighbours, and one float to either side of it. */
START_TEST(test_ties_go_to_even)
{
    uint32_t largest = _i ? 0x7f7f : 0x7bff;
    for (uint32_t bits = 0; bits <= largest; bits++) {
        double here = meaning((uint16_t)bits, _i ? brain : half);
        double next = bits == largest ? ldexp(1, (_i ? brain : half).high + 1) : meaning((uint16_t)(bits + 1), _i ? brain : half);
        float middle = (float)(here / 2 + next / 2);
        for (int sign = -1; sign <= 1; sign += 2) {
            assert_rounds((float)sign * middle, _i);
            assert_rounds((float)sign * nextafterf(middle, 0), _i);
            assert_rounds((float)sign * nextafterf(middle, INFINITY), _i);
        }
    }
}
END_TEST

/* Doubles are rounded once: what lies beside a tie by less than a float can tell must not be taken for one. */
static void assert_rounds_double(double x, bool is_brain)
{
    double want = rounded(x, is_brain ? brain : half),
           got = is_brain ? bf16_to_float(double_to_bf16(x)) : fp16_to_float(double_to_fp16(x));
    REQUIRE(got == want && !signbit(got) == !signbit(want), "%s of the double %a is %a, not %a", is_brain ? "bf16" : "fp16", x,
            got, want);
}

START_TEST(test_doubles_are_rounded_once)
{
    uint32_t largest = _i ? 0x7f7f : 0x7bff;
    for (uint32_t bits = 0; bits <= largest; bits++) {
        double here = meaning((uint16_t)bits, _i ? brain : half);
        double next = bits == largest ? ldexp(1, (_i ? brain : half).high + 1) : meaning((uint16_t)(bits + 1), _i ? brain : half);
        double middle = here / 2 + next / 2, near[] = { here, middle };
        for (int i = 0; i < 2; i++)
            for (int sign = -1; sign <= 1; sign += 2) {
                double x = sign * near[i], far = near[i] * (1 + 0x1p-30);
                assert_rounds_double(x, _i);
                assert_rounds_double(nextafter(x, 0), _i);
                assert_rounds_double(nextafter(x, sign * INFINITY), _i);
                assert_rounds_double(sign * far, _i);
                assert_rounds_double(x / (1 + 0x1p-30), _i);
            }
    }
    static const double limits[] = {
        0, 1e-320, 0x1p-150, 0x1p-149, 0x1p-134, 0x1.8p-134, 1e39, 1e300, 65519.999999999, 65520, 3.3961775292304957e38
    };
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        assert_rounds_double(limits[i], _i);
        assert_rounds_double(-limits[i], _i);
    }
    assert_rounds_double(INFINITY, _i);
    assert_rounds_double(-INFINITY, _i);
    ck_assert(isnan(fp16_to_float(double_to_fp16(NAN))) && isnan(bf16_to_float(double_to_bf16(NAN))));
    for (uint64_t i = 0; i < 300000; i++) { /* fp16's range, and beyond either end */
        double x = ldexp((double)random_bits(4, i), (int)(random_bits(5, i) % (_i ? 290 : 60)) - (_i ? 210 : 95));
        assert_rounds_double(i % 2 ? x : -x, _i);
    }
}
END_TEST

START_TEST(test_random_floats)
{
    for (uint64_t i = 0; i < 1000000; i++) {
        float x = float_of_bits((uint32_t)random_bits(3, i));
        if (!isnan(x))
            assert_rounds(x, _i);
        else
            REQUIRE(isnan(through(x, _i)), "%a is a NaN no more", (double)x);
    }
}
END_TEST

START_TEST(test_limits)
{
    static const float limits[] = { 0, FLT_MAX, FLT_MIN, FLT_TRUE_MIN, INFINITY, 65504, 65519.996f, 65520, 65536 };
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        assert_rounds(limits[i], _i);
        assert_rounds(-limits[i], _i);
    }
    /* A NaN whose payload lies only in the bits that are dropped must not become infinity. */
    ck_assert(isnan(through(float_of_bits(0x7f800001), _i)));
    ck_assert(isnan(through(float_of_bits(0xff800001), _i)));
}
END_TEST

Suite *half_suite(void)
{
    Suite *suite = suite_create("half");
    TCase *values = tcase_create("values");
    tcase_set_timeout(values, 60);
    tcase_add_loop_test(values, test_all_65536_mean_what_they_should, 0, 2); /* fp16, bf16 */
    tcase_add_loop_test(values, test_all_65536_come_back, 0, 2);
    suite_add_tcase(suite, values);

    TCase *rounding = tcase_create("rounding");
    tcase_set_timeout(rounding, 60);
    tcase_add_loop_test(rounding, test_ties_go_to_even, 0, 2);
    tcase_add_loop_test(rounding, test_doubles_are_rounded_once, 0, 2);
    tcase_add_loop_test(rounding, test_random_floats, 0, 2);
    tcase_add_loop_test(rounding, test_limits, 0, 2);
    suite_add_tcase(suite, rounding);
    return suite;
}

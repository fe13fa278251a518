/* common/vexp.h against exp and exp2 in double: in a loop that the compiler vectorises, and called one at a time. */
#include <math.h>

#include "harness.h"
#include "half.h"
#include "suites.h"
#include "vexp.h"

#define BLOCK 4096

/* Noinline, so that the compiler cannot make one version where the test wants two. */
static __attribute__((noinline)) void vexp_block(float *y, const float *x)
{
#pragma omp simd
    for (int i = 0; i < BLOCK; i++)
        y[i] = vexp(x[i]);
}

static __attribute__((noinline)) float vexp_alone(float x)
{
    return vexp(x);
}

static void assert_close(float x, float got, const char *how)
{
    double want = exp(x), error = fabs(got - want);
    REQUIRE(x < VEXP_SMALLEST ? got == 0 : error <= VEXP_ERROR * want, "vexp(%a) %s is %a, not %a: relative error %.3g",
            (double)x, how, (double)got, want, error / want);
}

/* Every 101st float of [0, limit], or of [limit, 0]. */
static void assert_range(float limit)
{
    static float x[BLOCK], y[BLOCK];
    uint32_t sign = bits_of_float(limit) & 0x80000000, last = bits_of_float(limit) & 0x7fffffff;
    for (uint32_t bits = 0; bits <= last;) {
        for (int i = 0; i < BLOCK; i++, bits += 101)
            x[i] = float_of_bits(sign | (bits < last ? bits : last));
        vexp_block(y, x);
        for (int i = 0; i < BLOCK; i++) {
            assert_close(x[i], y[i], "in a loop");
            assert_close(x[i], vexp_alone(x[i]), "alone");
        }
    }
}

static __attribute__((noinline)) void vexp2_block(float *y, const float *x)
{
#pragma omp simd
    for (int i = 0; i < BLOCK; i++)
        y[i] = vexp2(x[i]);
}

/* Every 101st float of [-200, 127], every NaN that is a step of 101 away, and -inf. */
START_TEST(test_powers_of_two)
{
    static float x[BLOCK], y[BLOCK];
    for (uint32_t bits = 0; bits < 0x80000000;) {
        if (bits > bits_of_float(200.0f) && bits < 0x7f800000)
            bits = 0x7f800000; /* infinity; NaNs behind it */
        for (int i = 0; i < BLOCK; i++, bits += 101)
            x[i] = float_of_bits(0x80000000 | (bits < 0x80000000 ? bits : 0));
        vexp2_block(y, x);
        for (int i = 0; i < BLOCK; i++) {
            double want = exp2(x[i]), error = fabs(y[i] - want);
            bool right = isnan(x[i]) ? isnan(y[i]) : x[i] < -126 ? y[i] == 0 : error <= 2.1e-7 * want;
            REQUIRE(right, "vexp2(%a) is %a, not %a: relative error %.3g", (double)x[i], (double)y[i], want, error / want);
        }
    }
    for (uint32_t bits = 0; bits <= bits_of_float(127.0f); bits += 101) {
        float above = float_of_bits(bits);
        REQUIRE(fabs(vexp2(above) - exp2(above)) <= 2.1e-7 * exp2(above), "vexp2(%a) is %a", (double)above, (double)vexp2(above));
    }
}
END_TEST

START_TEST(test_what_a_softmax_asks_for)
{
    assert_range(-200.0f);
}
END_TEST

START_TEST(test_above_zero)
{
    assert_range(88.3762f);
}
END_TEST

START_TEST(test_exact_values)
{
    ck_assert(vexp_alone(0.0f) == 1 && vexp_alone(-0.0f) == 1);
    ck_assert(vexp_alone(-INFINITY) == 0);
    ck_assert(vexp_alone(-3.4e38f) == 0);
}
END_TEST

/* Whatever its sign and its payload. */
START_TEST(test_every_nan_stays_nan)
{
    static float x[BLOCK], y[BLOCK];
    for (uint32_t bits = 0x7f800001; bits < 0x80000000;) {
        for (int i = 0; i < BLOCK; i++, bits++)
            x[i] = float_of_bits(bits | (_i ? 0x80000000 : 0));
        vexp_block(y, x);
        for (int i = 0; i < BLOCK && isnan(x[i]); i++) /* the very last one is past the NaNs */
            REQUIRE(isnan(y[i]), "vexp of the NaN %08x is %g", bits_of_float(x[i]), (double)y[i]);
    }
    ck_assert(isnan(vexp_alone(float_of_bits(_i ? 0xffffffff : 0x7fffffff))));
}
END_TEST

Suite *vexp_suite(void)
{
    Suite *suite = suite_create("vexp");
    TCase *accuracy = tcase_create("accuracy");
    tcase_set_timeout(accuracy, 120);
    tcase_add_test(accuracy, test_what_a_softmax_asks_for);
    tcase_add_test(accuracy, test_above_zero);
    tcase_add_test(accuracy, test_powers_of_two);
    tcase_add_test(accuracy, test_exact_values);
    tcase_add_loop_test(accuracy, test_every_nan_stays_nan, 0, 2);
    suite_add_tcase(suite, accuracy);
    return suite;
}

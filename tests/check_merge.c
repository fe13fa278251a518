/*
 * The algebra of common/merge.h.
 *
 * How exact? With u = 2^-24 and expf within 1 ulp (relative error 2u), one merge computes
 *
 *     l = l1 * exp(m1 - m) + l2 * exp(m2 - m)
 *
 * with, on each term: one rounding of the difference d = m - m1, which exp turns into a relative error of d * u; 2u from exp;
 * u from the product; u from the sum. The larger maximum is exact, its exp is exp(0) = 1. A leaf that goes through `depth`
 * merges is moved by differences that add up to below = m - x, so that its term is off by at most
 *
 *     (4 * depth + below) * u * exp(-below)
 *
 * to first order, and below * exp(-below) <= 1/e < 1. All terms are positive, so the sum l over n leaves (l >= 1, since the
 * maximum itself is a leaf) has a relative error of at most
 *
 *     (4 * depth + spread) * u,      spread = the mean of `below`, weighted by exp(-below)
 *
 * The entropy of the softmax is log(l) + spread, and no distribution over n numbers has more than log(n): spread <= log(n).
 *
 * Two trees over the same leaves differ by at most the sum of their bounds. m is exact: a maximum does not round.
 */
#include <float.h>
#include <math.h>
#include <stdbool.h>

#include "harness.h"
#include "merge.h"
#include "suites.h"

#define UNIT 0x1p-24
#define MAX_LEAVES 4096

static struct softmax_state merge(struct softmax_state a, struct softmax_state b)
{
    return softmax_merge(a, b);
}

static bool same(struct softmax_state a, struct softmax_state b)
{
    return a.m == b.m && a.l == b.l;
}

static double bound(int depth, int leaves)
{
    return (4 * depth + log(leaves)) * UNIT;
}

/* A number from -scale to scale; one in eight is masked. */
static float draw(uint64_t index, float scale)
{
    uint64_t bits = random_bits(7, index);
    return bits % 8 == 0 ? -INFINITY : scale * ((float)(bits >> 40) * 0x1p-23f - 1);
}

/* A state that could have come out of merging: one number, or a few of them. */
static struct softmax_state draw_state(uint64_t index, float scale)
{
    struct softmax_state s = softmax_one(draw(4 * index, scale));
    for (uint64_t i = 1; i < index % 4; i++)
        s = merge(s, softmax_one(draw(4 * index + i, scale)));
    return s;
}

static const float scales[] = { 0, 1e-30f, 1, 10, 100, 1e4f, 1e30f, FLT_MAX };
enum { SCALES = sizeof scales / sizeof scales[0] };

START_TEST(test_empty_is_the_identity)
{
    for (uint64_t i = 0; i < 1000; i++) {
        struct softmax_state s = draw_state(i, scales[_i]);
        ck_assert_msg(same(merge(s, softmax_empty()), s) && same(merge(softmax_empty(), s), s),
                      "(%g, %g) changed by an empty state", (double)s.m, (double)s.l);
    }
}
END_TEST

START_TEST(test_empty_with_empty_is_empty)
{
    struct softmax_state s = merge(softmax_empty(), softmax_empty());
    ck_assert(s.m == -INFINITY && s.l == 0);
}
END_TEST

START_TEST(test_one_masked_number_is_empty)
{
    ck_assert(same(softmax_one(-INFINITY), softmax_empty()));
}
END_TEST

/* The row 1, 3, 2 of lesson 03, element by element, and in two parts. */
START_TEST(test_example_of_lesson_03)
{
    static const float x[] = { 1, 3, 2 }, m[] = { 1, 3, 3 };
    static const double l[] = { 1, 1.1353, 1.5032 };
    struct softmax_state s = softmax_empty(), pair = softmax_merge(softmax_one(3), softmax_one(2));
    for (int i = 0; i < 3; i++) {
        s = softmax_merge(s, softmax_one(x[i]));
        ck_assert(s.m == m[i] && fabs((double)s.l - l[i]) < 5e-5);
    }
    ck_assert(pair.m == 3 && fabs((double)pair.l - 1.3679) < 5e-5);
    s = softmax_merge(softmax_one(1), pair);
    ck_assert(s.m == 3 && fabs((double)s.l - 1.5032) < 5e-5);
    for (int i = 0; i < 3; i++)
        ck_assert(fabs(exp(x[i] - 3.0) / (double)s.l - (const double[]){ 0.0900, 0.6652, 0.2447 }[i]) < 6e-5);
}
END_TEST

START_TEST(test_one_number)
{
    static const float numbers[] = { 0, -0.0f, 1, -1, FLT_MAX, -FLT_MAX, FLT_MIN, FLT_TRUE_MIN, -FLT_TRUE_MIN };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct softmax_state s = softmax_one(numbers[i]);
        ck_assert(s.m == numbers[i] && s.l == 1);
    }
}
END_TEST

/*
 * Exactly, as written. But a compiler may fuse one of the two products with the sum, which then skips that product's rounding, u;
 * and the sum's own, another u, may fall on the other side. m never rounds.
 */
START_TEST(test_commutes)
{
    for (uint64_t i = 0; i < 1000; i++) {
        struct softmax_state a = draw_state(2 * i, scales[_i]), b = draw_state(2 * i + 1, scales[_i]);
        struct softmax_state ab = merge(a, b), ba = merge(b, a);
        ck_assert_msg(ab.m == ba.m && fabs((double)ab.l - ba.l) <= 3 * UNIT * ab.l,
                      "(%g, %g) and (%g, %g): l is %.9g one way, %.9g the other", (double)a.m, (double)a.l, (double)b.m,
                      (double)b.l, (double)ab.l, (double)ba.l);
    }
}
END_TEST

/* Three states of at most 3 numbers: no leaf is deeper than 2 + 2. */
START_TEST(test_associates)
{
    for (uint64_t i = 0; i < 1000; i++) {
        struct softmax_state a = draw_state(3 * i, scales[_i]), b = draw_state(3 * i + 1, scales[_i]);
        struct softmax_state c = draw_state(3 * i + 2, scales[_i]);
        struct softmax_state left = merge(merge(a, b), c), right = merge(a, merge(b, c));
        ck_assert(left.m == right.m);
        ck_assert_msg(fabs((double)left.l - right.l) <= 2 * bound(4, 9) * left.l, "l is %.9g one way, %.9g the other",
                      (double)left.l, (double)right.l);
    }
}
END_TEST

START_TEST(test_equal_maxima_add_exactly)
{
    struct softmax_state a = { 3, 2 }, b = { 3, 5 }, s = merge(a, b);
    ck_assert(s.m == 3 && s.l == 7);
}
END_TEST

/* exp(m1 - m) must not be asked for m1 > m: at a gap of 89 it would be infinite. */
START_TEST(test_far_apart_the_larger_wins)
{
    static const float gaps[] = { 80, 89, 104, 1e4f, 1e30f, FLT_MAX };
    for (size_t i = 0; i < sizeof gaps / sizeof gaps[0]; i++) {
        struct softmax_state low = { -gaps[i], 3 }, high = { gaps[i], 2 };
        ck_assert(same(merge(low, high), high) && same(merge(high, low), high));
    }
}
END_TEST

START_TEST(test_largest_floats)
{
    struct softmax_state high = softmax_one(FLT_MAX), low = softmax_one(-FLT_MAX);
    ck_assert(same(merge(high, low), high));
    struct softmax_state two = merge(high, high);
    ck_assert(two.m == FLT_MAX && two.l == 2);
    two = merge(low, low);
    ck_assert(two.m == -FLT_MAX && two.l == 2);
    ck_assert(same(merge(low, softmax_one(-INFINITY)), low));
}
END_TEST

/* Every output is divided by l, so a NaN in l is a NaN in the whole row. */
START_TEST(test_nan_survives)
{
    const struct softmax_state others[] = { softmax_empty(),       softmax_one(1),   softmax_one(FLT_MAX),
                                            softmax_one(-FLT_MAX), softmax_one(NAN), softmax_one(INFINITY) };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        struct softmax_state s = merge(softmax_one(NAN), others[i]), t = merge(others[i], softmax_one(NAN));
        ck_assert(isnan(s.m / s.l) && isnan(t.m / t.l));
        s = merge(merge(s, softmax_one(2)), softmax_empty());
        t = merge(softmax_one(2), t); /* its l is a NaN by now, its m need not be one */
        ck_assert(isnan(s.m / s.l) && isnan(t.m / t.l));
    }
}
END_TEST

/* exp(inf - inf): +inf has no softmax. */
START_TEST(test_infinity_becomes_nan)
{
    struct softmax_state s = merge(softmax_one(INFINITY), softmax_one(1));
    ck_assert(isnan(s.l));
    s = softmax_one(INFINITY);
    ck_assert(isnan(expf(INFINITY - s.m) / s.l));
}
END_TEST

/* ---- trees */

/* The answer in double: the sum of exp(x - max). */
static double sum_in_double(const float *x, int n, double max)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i] == -INFINITY ? 0 : exp(x[i] - max);
    return sum;
}

/* Merge n states two at a time, any two, until one is left. The depth of the deepest leaf goes to *depth. */
static struct softmax_state merge_randomly(const float *x, int n, uint64_t seed, int *depth)
{
    static struct softmax_state states[MAX_LEAVES];
    static int depths[MAX_LEAVES];
    for (int i = 0; i < n; i++) {
        states[i] = softmax_one(x[i]);
        depths[i] = 0;
    }
    for (; n > 1; n--) { /* take any state out, and merge it into any other */
        uint64_t from = random_bits(seed, (uint64_t)n) % (uint64_t)n, to = random_bits(~seed, (uint64_t)n) % (uint64_t)(n - 1);
        struct softmax_state moved = states[from];
        int moved_depth = depths[from];
        states[from] = states[n - 1];
        depths[from] = depths[n - 1];
        states[to] = merge(states[to], moved);
        depths[to] = (depths[to] > moved_depth ? depths[to] : moved_depth) + 1;
    }
    *depth = depths[0];
    return states[0];
}

static struct softmax_state merge_halves(const float *x, int n)
{
    if (n == 1)
        return softmax_one(x[0]);
    return merge(merge_halves(x, n / 2), merge_halves(x + n / 2, n - n / 2));
}

static struct softmax_state merge_in_order(const float *x, int n, int stride)
{
    struct softmax_state s = softmax_empty();
    for (int i = 0; i < n; i++)
        s = merge(s, softmax_one(x[stride > 0 ? i : n - 1 - i]));
    return s;
}

static void assert_close(struct softmax_state s, double max, double sum, int depth, int n, const char *tree)
{
    ck_assert_msg(s.m == max, "%s over %d numbers: maximum %g instead of %g", tree, n, (double)s.m, max);
    ck_assert_msg(fabs(s.l - sum) <= bound(depth, n) * sum, "%s over %d numbers, %d deep: sum %.9g instead of %.9g, bound %.2g",
                  tree, n, depth, (double)s.l, sum, bound(depth, n));
}

START_TEST(test_any_tree_gives_the_answer)
{
    static float x[MAX_LEAVES];
    for (int n = 1; n <= MAX_LEAVES; n = n < 40 ? n + 1 : 3 * n - n / 2) {
        double max = -INFINITY;
        for (int i = 0; i < n; i++) {
            x[i] = draw((uint64_t)(n * MAX_LEAVES + i), scales[_i]);
            max = x[i] > max ? x[i] : max;
        }
        double sum = sum_in_double(x, n, max);
        assert_close(merge_in_order(x, n, 1), max, sum, n, n, "a chain");
        assert_close(merge_in_order(x, n, -1), max, sum, n, n, "a chain from the end");
        assert_close(merge_halves(x, n), max, sum, (int)ceil(log2(n)) + 1, n, "a tree of halves");
        for (uint64_t seed = 0; seed < 5; seed++) {
            int depth;
            struct softmax_state s = merge_randomly(x, n, seed, &depth);
            assert_close(s, max, sum, depth, n, "a random tree");
        }
    }
}
END_TEST

Suite *merge_suite(void)
{
    Suite *suite = suite_create("merge");
    TCase *algebra = tcase_create("algebra");
    tcase_add_loop_test(algebra, test_empty_is_the_identity, 0, SCALES);
    tcase_add_test(algebra, test_empty_with_empty_is_empty);
    tcase_add_loop_test(algebra, test_commutes, 0, SCALES);
    tcase_add_loop_test(algebra, test_associates, 0, SCALES);
    tcase_add_test(algebra, test_equal_maxima_add_exactly);
    suite_add_tcase(suite, algebra);

    TCase *limits = tcase_create("limits");
    tcase_add_test(limits, test_example_of_lesson_03);
    tcase_add_test(limits, test_one_number);
    tcase_add_test(limits, test_one_masked_number_is_empty);
    tcase_add_test(limits, test_far_apart_the_larger_wins);
    tcase_add_test(limits, test_largest_floats);
    tcase_add_test(limits, test_nan_survives);
    tcase_add_test(limits, test_infinity_becomes_nan);
    suite_add_tcase(suite, limits);

    TCase *trees = tcase_create("trees");
    tcase_set_timeout(trees, 60);
    tcase_add_loop_test(trees, test_any_tree_gives_the_answer, 0, SCALES);
    suite_add_tcase(suite, trees);
    return suite;
}

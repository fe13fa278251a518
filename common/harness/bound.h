/*
 * How wrong a weight may be: the formulas of docs/numerics.md that the references of attention share, on the CPU and on a GPU.
 * They say what is allowed, and nothing of what is right.
 */
#ifndef BOUND_H
#define BOUND_H

#include <math.h>

#include "types.h"

#define UNIT 0x1p-24      /* unit roundoff of fp32 */
#define LARGEST_SCORE 0x1p127
#define FURTHEST 300.0    /* e^300 is as good as infinite, and its square is still a number */

/* Unit roundoff of a 16-bit type; 0 for the others. */
ATTENTION_FN double unit16_of(enum dtype dtype)
{
    return dtype == FP16 ? 0x1p-11 : dtype == BF16 ? 0x1p-8 : 0;
}

/* A score. `dot` is the exact sum of products, `size` that of their absolute values. */
struct score {
    double value;
    double doubt;  /* how far a step's may be from it */
    bool overflow; /* it, or a sum on the way to it, may leave fp32 */
};

ATTENTION_FN struct score score_of(double dot, double size, double scale, int64_t dim, double unit16)
{
    bool overflow = isfinite(size) && size * fmax(1.0, fabs(scale)) > LARGEST_SCORE;
    return (struct score){ dot * scale, 2 * ((double)dim + 4) * UNIT * size * fabs(scale) + unit16 * fabs(dot * scale),
                           overflow };
}

/* How far the exponent of a weight exp(-below) may be off: the score, its distance from the maximum, and exp itself. */
ATTENTION_FN double exponent_doubt(double below, double score_doubt)
{
    /* of score -inf: a key that counts for nothing, whatever happens */
    return isinf(below) ? 0 : score_doubt + (3 * below + 4) * UNIT;
}

/* How far the weight may be off, absolutely: weight * (e^d - 1). (e^d - 1 <= d + d^2 up to d = 1.) */
ATTENTION_FN double weight_doubt(double weight, double below, double d)
{
    return d <= 1 ? weight * (d + d * d) : exp(fmin(d - below, FURTHEST));
}

/*
 * How far a weight's share in the sum may be off: the share itself, and the sum, which is off by the factor 1 + sum_doubt at
 * most. It stays between 0 and 1 whatever happens.
 */
ATTENTION_FN double share_doubt(double share, double its_doubt, double sum_doubt)
{
    return fmin(its_doubt * (1 + sum_doubt), fmax(share, 1 - share));
}

/* The errors of rounding that do not depend on scores, for a row of `visible` keys whose weights add up to `sum`. */
struct loss {
    double relative;  /* of every addend of an output: the additions of the sum, and of O, and the rounding of the weights */
    double absolute;  /* of a share, where its type ends */
    double unit, tiny; /* of the result: its rounding, and where its type ends */
};

ATTENTION_FN struct loss loss_of(int64_t visible, double sum, enum dtype dtype, bool weights_rounded, bool parts_rounded)
{
    double unit16 = unit16_of(dtype);
    return (struct loss){
        4 * ((double)visible + 32) * UNIT + (weights_rounded ? unit16 : 0) + (parts_rounded ? unit16 : 0),
        (0x1p-126 + (weights_rounded && dtype == FP16 ? 0x1p-25 : 0)) / sum,
        unit16,
        0x1p-126 + (dtype == FP16 ? parts_rounded ? 0x1p-24 : 0x1p-25 : 0),
    };
}

/* What is known of one element of O after all keys. */
struct sums {
    double want;     /* sum of share * v: the exact answer */
    double plain;    /* sum of v */
    double moved;    /* sum of share_doubt * |v - want| */
    double furthest; /* largest |v - want| */
    double rounded;  /* sum of (relative * share + absolute) * |v| */
};

/* The part of the bound that no doubt about scores can widen, and the bound. `moved_shares`: sum of share_doubt. */
ATTENTION_FN double firm_bound(struct sums s, struct loss l)
{
    return s.rounded + l.unit * fabs(s.want) + l.tiny;
}

ATTENTION_FN double element_bound(struct sums s, struct loss l, double moved_shares)
{
    double moved = fmin(s.moved, s.furthest); /* O is a mean of values, and so no further away than the furthest of them */
    double again = l.relative * (moved + fmin(moved_shares, 2.0) * fabs(s.want)); /* moved shares are rounded, too */
    return firm_bound(s, l) + (1 + l.unit) * (moved + again);
}

/*
 * lse = maximum + log(sum): off by what the sum is off by, in logarithm; but by no more than the exponent that is furthest off;
 * and by the additions and its own rounding.
 */
ATTENTION_FN double lse_bound(double lse, double sum_doubt, double furthest, int64_t visible)
{
    double moved = sum_doubt < 1e100 ? fmin(log1p(sum_doubt), furthest) : furthest;
    return moved + 2 * ((double)visible + 32) * UNIT + 8 * UNIT * (fabs(lse) + 1);
}

/*
 * A column of V, one number every `stride`, with something in it that is not finite. What the formula says, 0 * inf = NaN
 * included, is what O must be. But if the weight of such a key is so small that a step may lose it, inf and NaN are both right.
 */
ATTENTION_FN void settle_infinite(double *want, double *bound, const double *share, const double *moved, const double *v,
                                  int64_t stride, int64_t visible, double smallest)
{
    *bound = 0;
    for (int64_t key = 0; key < visible; key++)
        if (isinf(v[key * stride]) && share[key] - moved[key] <= smallest)
            *bound = INFINITY;
    if (*bound > 0)
        *want = NAN;
}

/* Whether a row that somebody made up is within `times` the bound: `made_up`, or zeros where it is NULL. */
ATTENTION_FN bool would_pass(const double *made_up, const double *want, const double *bound, double times, int64_t dim)
{
    for (int64_t i = 0; i < dim; i++)
        if (!(fabs((made_up ? made_up[i] : 0) - want[i]) <= times * bound[i]))
            return false;
    return true;
}

/* The same for any one number in all places. (A row of one number is always that.) */
ATTENTION_FN bool constant_would_pass(const double *want, const double *bound, double times, int64_t dim)
{
    double low = -INFINITY, high = INFINITY;
    for (int64_t i = 0; i < dim; i++) {
        low = fmax(low, want[i] - times * bound[i]);
        high = fmin(high, want[i] + times * bound[i]);
    }
    return dim > 1 && low <= high;
}

/*
 * Times the firm bound: what is within that is as good as right, whatever else the bound lets pass. (With 4, a row whose answer
 * happens to lie that near to the mean of two values was in doubt.)
 */
#define FIRM 8

/* Whether a row tells nothing: its bound lets pass what is not right. firm: firm_bound of each element; mean: V's. All (dim). */
ATTENTION_FN bool is_blind(const double *want, const double *bound, const double *firm, const double *mean, int64_t dim)
{
    return (would_pass(NULL, want, bound, 1, dim) && !would_pass(NULL, want, firm, FIRM, dim)) ||
           (would_pass(mean, want, bound, 1, dim) && !would_pass(mean, want, firm, FIRM, dim)) ||
           (constant_would_pass(want, bound, 1, dim) && !constant_would_pass(want, firm, FIRM, dim));
}

#endif

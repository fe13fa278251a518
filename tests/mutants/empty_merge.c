/*
 * Mutant: merging two empty states gives NaN.
 *
 * Looks like: the merge rule without its guard: exp(-inf - -inf). Lanes without a column are empty, so it takes a row
 * shorter than two lanes.
 * In the wild: the reduce_sum_max_op of karpathy/llm.c.
 * Caught by: "shapes": with one column 31 of 32 lanes are empty.
 */
#include <math.h>

#include "mutants.h"

#define LANES 32

void empty_merge(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float m[LANES], l[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            m[lane] = -INFINITY;
            l[lane] = 0.0f;
            for (int64_t col = lane; col < cols; col += LANES)
                m[lane] = fmaxf(m[lane], in[col]);
            for (int64_t col = lane; col < cols; col += LANES)
                l[lane] += in[col] == -INFINITY ? 0.0f : expf(in[col] - m[lane]);
        }
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int lane = 0; lane < half; lane++) {
                float max = fmaxf(m[lane], m[lane + half]);
                l[lane] = l[lane] * expf(m[lane] - max) + l[lane + half] * expf(m[lane + half] - max);
                m[lane] = max;
            }
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - m[0]) / l[0];
    }
}

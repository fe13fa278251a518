/*
 * Mutant: the last vector is written whole.
 *
 * Looks like: stores of 4 elements, rounded up: the last one of a ragged row reaches up to 3 elements beyond. Rows
 * written later repair the damage, but for the last row.
 * In the wild: no thread is known to us; see one_past_the_end. A check that only looks at y cannot see it.
 * Caught by: "shapes": the guard band behind y is not intact.
 */
#include <math.h>

#include "mutants.h"

void whole_vectors_only(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -INFINITY, sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            max = fmaxf(max, in[col]);
        for (int64_t col = 0; col < cols; col++)
            sum += expf(in[col] - max);
        for (int64_t col = 0; col < cols; col += 4)
            for (int64_t i = col; i < col + 4; i++)
                out[i] = i < cols ? expf(in[i] - max) / sum : 0.0f;
    }
}

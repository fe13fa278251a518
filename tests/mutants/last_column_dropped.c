/*
 * Mutant: the last column is left out of the sum.
 *
 * Looks like: `cols - 1` in one of three loops. In a long row one number of many is hardly missed: a tolerance of 1e-2
 * lets it through.
 * In the wild: in an attention, the checks of xlite-dev/LeetCUDA and three others accept it (a key dropped).
 * Caught by: "ordinary": with 128 columns the sum is off by a hundredth, and the bound is a millionth.
 */
#include <math.h>

#include "mutants.h"

void last_column_dropped(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -INFINITY, sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            max = fmaxf(max, in[col]);
        for (int64_t col = 0; col < cols - 1; col++)
            sum += expf(in[col] - max);
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - max) / sum;
    }
}

/*
 * Mutant: the row is padded with 0 to whole vectors.
 *
 * Looks like: 0 is what padding is made of. For a maximum it must be -inf, for a sum of exps, too: exp(0 - max) is not
 * 0.
 * In the wild: SzymonOzog/FastSoftmax pads its reductions with 0.
 * Caught by: "shapes": with 33 columns, 31 zeros are counted.
 */
#include <math.h>

#include "mutants.h"

void padded_with_zero(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -INFINITY, sum = 0.0f;
        for (int64_t col = 0; col < (cols + 31) / 32 * 32; col++)
            max = fmaxf(max, col < cols ? in[col] : 0.0f);
        for (int64_t col = 0; col < (cols + 31) / 32 * 32; col++)
            sum += expf((col < cols ? in[col] : 0.0f) - max);
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - max) / sum;
    }
}

/*
 * Mutant: rows are taken to start at multiples of 4 elements.
 *
 * Looks like: a row stride counted in vectors: cols / 4. Nothing is wrong while cols is a multiple of 4.
 * In the wild: karpathy/llm.c#795 is an index of this kind, with the wrong extent for its heads.
 * Caught by: "shapes": with 33 columns every row but the first starts too early.
 */
#include <math.h>

#include "mutants.h"

void wrong_stride(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        in = x + row * (cols / 4 * 4);
        out = y + row * (cols / 4 * 4);
        float max = -INFINITY;
        for (int64_t col = 0; col < cols; col++)
            max = fmaxf(max, in[col]);

        float sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            sum += expf(in[col] - max);
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - max) / sum;
    }
}

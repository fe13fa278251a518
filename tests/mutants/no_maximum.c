/*
 * Mutant: no maximum is subtracted.
 *
 * Looks like: the definition, as a textbook has it. It is right for every ordinary input, so that a check on ordinary
 * inputs accepts it.
 * In the wild: the handout of stanford-cs149/cs149gpt computes attention so, on purpose; step 01 is this one, too.
 * Caught by: "rising": exp(320) is infinite, and infinity / infinity is NaN.
 */
#include <math.h>

#include "mutants.h"

void no_maximum(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float sum = 0.0f;
        for (int64_t col = 0; col < cols; col++)
            sum += expf(in[col]);
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col]) / sum;
    }
}

/*
 * Mutant: the maximum of the tile in place of the running maximum.
 *
 * Looks like: one fmaxf too few in the loop over tiles. The rescale still keeps the sum right, as long as no tile lies
 * 88 below the one before.
 * In the wild: tile-ai/tilelang#1148.
 * Caught by: "falling": exp(previous maximum - maximum) is infinite.
 */
#include <math.h>

#include "mutants.h"

#define TILE 16

void tile_maximum(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float max = -INFINITY, sum = 0.0f;
        for (int64_t tile = 0; tile < cols; tile += TILE) {
            float previous = max;
            max = -INFINITY; /* should go on from `previous` */
            for (int64_t col = tile; col < tile + TILE && col < cols; col++)
                max = fmaxf(max, in[col]);
            sum *= expf(previous - max);
            for (int64_t col = tile; col < tile + TILE && col < cols; col++)
                sum += expf(in[col] - max);
        }
        for (int64_t col = 0; col < cols; col++)
            out[col] = expf(in[col] - max) / sum;
    }
}

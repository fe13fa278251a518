/*
 * Mutant: columns after the last whole tile are never touched.
 *
 * Looks like: a loop over cols / TILE tiles. Right for all powers of two, which is what most people try.
 * In the wild: 66RING/tiny-flash-attention#12, tspeterkim/flash-attention-minimal#2, amorehead/jvp_flash_attention#13.
 * Caught by: "shapes": with 15, 33 or 1000 columns some outputs are still the NaN that they were filled with.
 */
#include <math.h>

#include "mutants.h"

#define TILE 16

void last_tile_dropped(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        int64_t end = cols / TILE * TILE;
        float max = -INFINITY, sum = 0.0f;
        for (int64_t col = 0; col < end; col++)
            max = fmaxf(max, in[col]);
        for (int64_t col = 0; col < end; col++)
            sum += expf(in[col] - max);
        for (int64_t col = 0; col < end; col++)
            out[col] = expf(in[col] - max) / sum;
    }
}

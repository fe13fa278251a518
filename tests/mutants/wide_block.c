/*
 * Mutant: a block wider than a row drops rows.
 *
 * Looks like: `if (threadIdx.x >= cols) return;` where a warp owns a row and a block has many warps: the guard asks
 * for the thread's number in the block where it should ask for its row.
 * In the wild: karpathy/llm.c#776.
 * Caught by: "shapes": with 33 columns, six of eight rows are never written.
 */
#include <math.h>

#include "mutants.h"

#define WARPS 8 /* a block */

void wide_block(float *y, const float *x, int64_t rows, int64_t cols)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        int64_t thread = row % WARPS * 32; /* the first thread of the warp that owns this row */
        if (thread >= cols)
            continue;
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

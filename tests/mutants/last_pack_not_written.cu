/*
 * Mutant: the last, partial pack of 4 elements is read, but not written.
 *
 * Looks like: loops over cols / 4 packs, with a scalar loop for the rest after the first of them only. The sum is right.
 * In the wild: 66RING/tiny-flash-attention#12, tspeterkim/flash-attention-minimal#2: lengths that are no multiple of a tile.
 * Caught by: "shapes": with 33 columns, every 33rd element is still NaN.
 */
#include <math.h>

#include "mutants.h"

static __global__ void last_pack_not_written_kernel(float *y, const float *x, int64_t rows, int64_t cols)
{
    int64_t row = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows)
        return;
    const float *in = x + row * cols;
    float max = -INFINITY, sum = 0.0f;
    for (int64_t col = 0; col < cols; col++)
        max = fmaxf(max, in[col]);
    for (int64_t col = 0; col < cols; col++)
        sum += expf(in[col] - max);
    for (int64_t pack = 0; pack < cols / 4; pack++)
        for (int k = 0; k < 4; k++)
            y[row * cols + pack * 4 + k] = expf(in[pack * 4 + k] - max) / sum;
}

void last_pack_not_written(float *y, const float *x, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    last_pack_not_written_kernel<<<(unsigned)((rows + 63) / 64), 64, 0, stream>>>(y, x, rows, cols);
}

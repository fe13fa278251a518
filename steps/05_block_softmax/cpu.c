/*
 * Step 05, block softmax: the columns of a block share a maximum, and the states of blocks merge.
 *
 * A lane that meets its elements one by one must ask of each whether it is above the maximum. A block of columns lies in the
 * first-level cache, where reading it twice costs little: so its maximum is found first, and then its sum, as in step 02, without
 * a question and without rescaling. CHUNK lanes have a sum each.
 *
 * The sum of the row is a double: a float that has grown large no longer sees the small numbers that are added to it.
 *
 * Trips over the tensor: 2 reads, 1 write. Exponentials per element: 2, all of them in vectors.
 * Changed since step 04: blocks with a maximum each, in the place of lanes with a maximum each.
 */
#include <math.h>

#include "chunk.h"
#include "merge.h"
#include "steps.h"
#include "vexp.h"

#define BLOCK 512  /* columns that share a maximum: they stay in the first-level cache */

/* sum: (CHUNK), each with exp(x - m) of its column of x: (cols) added. */
INLINE void chunk_add(float *restrict sum, const float *x, float m, int cols)
{
    float spare[CHUNK];
    const float *v = chunk_load(spare, x, cols, FP32);
#pragma omp simd
    for (int i = 0; i < CHUNK; i++)
        sum[i] += vexp(v[i] - m);
}

/* The state of a block, x: (cols). */
INLINE struct softmax_state block_state(const float *x, int64_t cols)
{
    int64_t whole = cols - cols % CHUNK;
    int rest = (int)(cols - whole);
    float sum[CHUNK] = { 0 };
    float m = columns_max(x, cols, FP32), base = m == -INFINITY ? 0.0f : m; /* -inf - base must not be NaN */

    for (int64_t col = 0; col < whole; col += CHUNK)
        chunk_add(sum, x + col, base, CHUNK);
    if (rest)
        chunk_add(sum, x + whole, base, rest);
    return (struct softmax_state){ m, chunk_sum(sum) };
}

/* x, y: (rows, cols), row-major. Each row of y is the softmax of that row of x. */
void block_softmax_cpu(float *y, const float *x, int64_t rows, int64_t cols)
{
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        float m = -INFINITY;
        double l = 0.0;
        for (int64_t col = 0; col < cols; col += BLOCK) {
            struct softmax_state s = block_state(in + col, cols - col < BLOCK ? cols - col : BLOCK);
            if (s.l == 0.0f)
                continue; /* an empty set */
            float top = fmaxf(m, s.m);
            l = l * exp((double)m - top) + s.l * exp((double)s.m - top);
            m = top;
        }

        float scale = (float)(1.0 / l);
#pragma omp simd
        for (int64_t col = 0; col < cols; col++)
            out[col] = vexp(in[col] - m) * scale;
    }
}

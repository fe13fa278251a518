/*
 * Step 04, parallel softmax: merge partial states on purpose.
 *
 * Merging in any order gives the same state, so nothing forces a row through one state, element after element. Here LANES states
 * sit side by side, lane i takes columns i, i + LANES, i + 2 LANES, ..., and the compiler turns them into vector registers. That needs
 * an exp without a call: vexp. Threads take whole rows, as before.
 *
 * Every BLOCK columns the lanes' states become one, which joins the row's. The row's sum is a double: a float that has grown
 * large no longer sees the small numbers that are added to it.
 *
 * Trips over the tensor: 2 reads, 1 write. Exponentials per element: 3, all of them in vectors.
 * Changed since step 03: lanes, blocks, and vexp in the place of expf.
 */
#include <math.h>
#include <string.h>

#include "merge.h"
#include "steps.h"
#include "vexp.h"

#define LANES 64   /* states side by side: four vector registers of 16, so that their chains of additions overlap */
#define BLOCK 1024 /* columns after which the lanes' states are merged */

/* Every lane merges its element of x: (LANES) into its state. softmax_merge, for a vector. */
static inline void lanes_merge(float *restrict m, float *restrict l, const float *restrict x)
{
#pragma omp simd
    for (int lane = 0; lane < LANES; lane++) {
        float top = x[lane] > m[lane] ? x[lane] : m[lane];
        float base = top == -INFINITY ? 0.0f : top; /* nothing but -inf so far: -inf - base must not be NaN */
        l[lane] = l[lane] * vexp(m[lane] - base) + vexp(x[lane] - base);
        m[lane] = top;
    }
}

/* The state of x: (cols), cols <= BLOCK. */
static struct softmax_state block_state(const float *x, int64_t cols)
{
    float m[LANES], l[LANES], rest[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        m[lane] = rest[lane] = -INFINITY;
        l[lane] = 0.0f;
    }
    int64_t whole = cols - cols % LANES;
    for (int64_t col = 0; col < whole; col += LANES)
        lanes_merge(m, l, x + col);
    memcpy(rest, x + whole, (size_t)(cols - whole) * sizeof *x);
    lanes_merge(m, l, rest); /* filled up with -inf, which counts for nothing */

    /* The rule, for all lanes at once: one maximum, every sum rescaled to it. */
    struct softmax_state s = softmax_empty();
    for (int lane = 0; lane < LANES; lane++)
        s.m = m[lane] > s.m ? m[lane] : s.m;
    float base = s.m == -INFINITY ? 0.0f : s.m, sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int lane = 0; lane < LANES; lane++)
        sum += l[lane] * vexp(m[lane] - base);
    s.l = sum;
    return s;
}

/* x, y: (rows, cols), row-major. Each row of y is the softmax of that row of x. */
void parallel_softmax_cpu(float *y, const float *x, int64_t rows, int64_t cols)
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

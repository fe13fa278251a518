/*
 * Step 04, vector softmax: several states side by side, merged at the end.
 *
 * Merging in any order gives the same state, so nothing forces a row through one state, element after element. Here LANES states
 * lie side by side, lane i takes columns i, i + LANES, i + 2 LANES, ..., and the compiler makes vector instructions of them. That
 * needs an exp without a call: vexp. When the row ends, all lanes' states become one. Threads take whole rows, as before.
 *
 * Trips over the tensor: 2 reads, 1 write. Exponentials per element: 2, all of them in vectors.
 * Changed since step 03: lanes, and vexp in the place of expf.
 */
#include <math.h>

#include "merge.h"
#include "steps.h"
#include "vexp.h"

#define LANES 64   /* states side by side: several vector registers on any CPU, so that their chains of operations overlap */

/*
 * Every lane merges its element of x: (LANES) into its state, m, l: (LANES), as softmax_merge does. Of the two exponentials
 * there, one is always exp(0): the other one is enough. Without a branch or a call, so that it becomes vector instructions.
 */
static inline void lanes_merge(float *restrict m, float *restrict l, const float *restrict x)
{
#pragma omp simd
    for (int i = 0; i < LANES; i++) {
        float above = x[i] == -INFINITY ? x[i] : x[i] - m[i]; /* -inf counts for nothing; -inf - -inf would be NaN */
        float e = vexp(above > 0.0f ? -above : above);
        l[i] = above > 0.0f ? l[i] * e + 1.0f : l[i] + e;
        m[i] = above > 0.0f ? x[i] : m[i];
    }
}

/* The state of x: (cols): all columns into the lanes' states, the last ones filled up with -inf, and those into one. */
static inline struct softmax_state row_state(const float *x, int64_t cols)
{
    float m[LANES], l[LANES], rest[LANES];
    for (int i = 0; i < LANES; i++) {
        m[i] = -INFINITY;
        l[i] = 0.0f;
    }
    int64_t col = 0;
    for (; col + LANES <= cols; col += LANES)
        lanes_merge(m, l, x + col);
    if (col < cols) { /* the rest, filled up with -inf */
        for (int i = 0; i < LANES; i++)
            rest[i] = i < cols - col ? x[col + i] : -INFINITY;
        lanes_merge(m, l, rest);
    }

    /* All lanes at once: one maximum, and every sum scaled to it. */
    float top = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : top)
    for (int i = 0; i < LANES; i++)
        top = m[i] > top ? m[i] : top;
    float base = top == -INFINITY ? 0.0f : top;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < LANES; i++)
        sum += l[i] * vexp(m[i] - base);
    return (struct softmax_state){ top, sum };
}

/* x, y: (rows, cols), row-major. Each row of y is the softmax of that row of x. */
void vector_softmax_cpu(float *y, const float *x, int64_t rows, int64_t cols)
{
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        const float *in = x + row * cols;
        float *out = y + row * cols;

        struct softmax_state s = row_state(in, cols);

        float scale = 1.0f / s.l;
#pragma omp simd
        for (int64_t col = 0; col < cols; col++)
            out[col] = vexp(in[col] - s.m) * scale;
    }
}

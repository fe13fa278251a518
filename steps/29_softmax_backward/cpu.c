/*
 * Step 29, the gradient of softmax: given y and how a loss changes with it, how the loss changes with x.
 *
 *     dx_i = y_i (dy_i - s)        s = sum over j of y_j dy_j
 *
 * A row needs one number, s, before its first result can be known: as softmax needs (m, l). It takes no exponential, for y has
 * them all, and no merge: sums add. The second pass finds y and dy where the first left them, in the cache; dx goes past it.
 *
 * Trips over the tensor: 2 reads, 1 write, while two rows fit the second-level cache; otherwise 4 reads.
 */
#include "chunk.h"
#include "machine.h"
#include "steps.h"

#define BLOCK 512 /* columns that are added up in float; blocks are added in double, for rows of any length */

/* sum += y dy, for `cols` columns, cols <= CHUNK. */
INLINE void chunk_add(float *restrict sum, const float *y, const float *dy, int cols)
{
#pragma omp simd
    for (int i = 0; i < cols; i++)
        sum[i] += y[i] * dy[i];
}

/* The sum of y dy over a row of `cols` columns: CHUNK sums side by side, and of BLOCK columns at a time. */
INLINE float row_sum(const float *y, const float *dy, int64_t cols)
{
    double total = 0.0;
    for (int64_t left = 0; left < cols; left += BLOCK) {
        int64_t end = cols - left < BLOCK ? cols : left + BLOCK, whole = end - (end - left) % CHUNK;
        float sum[CHUNK] = { 0 };
        for (int64_t col = left; col < whole; col += CHUNK)
            chunk_add(sum, y + col, dy + col, CHUNK);
        chunk_add(sum, y + whole, dy + whole, (int)(end - whole));
        total += (double)chunk_sum(sum);
    }
    return (float)total;
}

/* Append `cols` columns of y (dy - sum) to dx (stream.h), cols <= CHUNK. */
INLINE void chunk_put(struct stream *dx, const float *y, const float *dy, float sum, int cols)
{
    float v[CHUNK];
#pragma omp simd
    for (int i = 0; i < cols; i++)
        v[i] = y[i] * (dy[i] - sum);
    stream_put(dx, v, (size_t)cols * sizeof *v);
}

/* One thread's share: rows first ... last - 1. */
static void share_backward(float *dx, const float *y, const float *dy, int64_t first, int64_t last, int64_t cols)
{
    int64_t whole = cols - cols % CHUNK;
    struct stream out = stream_open(dx + first * cols);
    for (int64_t row = first; row < last; row++) {
        const float *of_y = y + row * cols, *of_dy = dy + row * cols;
        float sum = row_sum(of_y, of_dy, cols);
        for (int64_t col = 0; col < whole; col += CHUNK)
            chunk_put(&out, of_y + col, of_dy + col, sum, CHUNK);
        if (whole < cols)
            chunk_put(&out, of_y + whole, of_dy + whole, sum, (int)(cols - whole));
    }
    stream_close(&out);
}

/* dx, y, dy: (rows, cols), row-major. Each row of dx is the gradient of a softmax whose result is that row of y. */
void softmax_backward_cpu(float *dx, const float *y, const float *dy, int64_t rows, int64_t cols)
{
    int64_t threads = cpu_threads();
#pragma omp parallel for
    for (int64_t t = 0; t < threads; t++)
        share_backward(dx, y, dy, rows * t / threads, rows * (t + 1) / threads, cols);
}

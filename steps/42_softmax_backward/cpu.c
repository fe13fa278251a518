/*
 * Step 42, the gradient of softmax: given y and how a loss changes with it, how the loss changes with x.
 *
 *     dx_i = y_i (dy_i - s)        s = sum over j of y_j dy_j
 *
 * A row needs one number, s, before its first result can be known: as softmax needs (m, l). It takes no exponential, for y has
 * them all, and no merge: sums add. The second pass finds y and dy where the first left them, in the cache; dx goes past it. 16
 * bits are computed in 32, as in step 07.
 *
 * Trips over the tensor: 2 reads, 1 write, while two rows fit the second-level cache; otherwise 4 reads.
 */
#include "floats.h"
#include "machine.h"
#include "steps.h"

#define BLOCK 512 /* columns that are added up in float; blocks are added in double, for rows of any length */

/* sum += y dy, for `cols` columns, cols <= CHUNK. */
INLINE void chunk_add(float *restrict sum, const void *y, const void *dy, int cols, enum dtype dtype)
{
    float of_y[CHUNK], of_dy[CHUNK];
    floats_of(of_y, y, cols, dtype);
    floats_of(of_dy, dy, cols, dtype);
#pragma omp simd
    for (int i = 0; i < cols; i++)
        sum[i] += of_y[i] * of_dy[i];
}

/* The sum of y dy over a row of `cols` columns: BLOCK of them in CHUNK floats side by side, and blocks in double. */
INLINE float row_sum(const void *y, const void *dy, int64_t cols, enum dtype dtype)
{
    double total = 0.0;
    for (int64_t left = 0; left < cols; left += BLOCK) {
        int64_t end = cols - left < BLOCK ? cols : left + BLOCK, whole = end - (end - left) % CHUNK;
        float sum[CHUNK] = { 0 };
        for (int64_t col = left; col < whole; col += CHUNK)
            chunk_add(sum, element_at(y, col, dtype), element_at(dy, col, dtype), CHUNK, dtype);
        chunk_add(sum, element_at(y, whole, dtype), element_at(dy, whole, dtype), (int)(end - whole), dtype);
        total += (double)chunk_sum(sum);
    }
    return (float)total;
}

/* Append `cols` columns of y (dy - sum) to dx, cols <= CHUNK. */
INLINE void chunk_put(struct stream *dx, const void *y, const void *dy, float sum, int cols, enum dtype dtype)
{
    float v[CHUNK] = { 0 }, of_y[CHUNK], of_dy[CHUNK];
    floats_of(of_y, y, cols, dtype);
    floats_of(of_dy, dy, cols, dtype);
#pragma omp simd
    for (int i = 0; i < cols; i++)
        v[i] = of_y[i] * (of_dy[i] - sum);
    chunk_store(dx, v, 1.0f, cols, dtype);
}

/* One thread's share: rows first ... last - 1. */
INLINE void share_backward(void *dx, const void *y, const void *dy, int64_t first, int64_t last, int64_t cols, enum dtype dtype)
{
    struct stream out = stream_open(element_at(dx, first * cols, dtype));
    for (int64_t row = first; row < last; row++) {
        const void *of_y = element_at(y, row * cols, dtype), *of_dy = element_at(dy, row * cols, dtype);
        int64_t col = 0;
        float sum = row_sum(of_y, of_dy, cols, dtype);
        for (; col + CHUNK <= cols; col += CHUNK)
            chunk_put(&out, element_at(of_y, col, dtype), element_at(of_dy, col, dtype), sum, CHUNK, dtype);
        if (col < cols)
            chunk_put(&out, element_at(of_y, col, dtype), element_at(of_dy, col, dtype), sum, (int)(cols - col), dtype);
    }
    stream_close(&out);
}

/* dx, y, dy: (rows, cols), row-major. Each row of dx is the gradient of a softmax whose result is that row of y. */
static void backward(void *dx, const void *y, const void *dy, int64_t rows, int64_t cols, enum dtype dtype)
{
    int64_t threads = cpu_threads();
#pragma omp parallel for
    for (int64_t t = 0; t < threads; t++) {
        int64_t first = rows * t / threads, last = rows * (t + 1) / threads;
        switch (dtype) { /* a copy of the code for each */
        case FP16: share_backward(dx, y, dy, first, last, cols, FP16); break;
        case BF16: share_backward(dx, y, dy, first, last, cols, BF16); break;
        default:   share_backward(dx, y, dy, first, last, cols, FP32); break;
        }
    }
}

void softmax_backward_cpu(float *dx, const float *y, const float *dy, int64_t rows, int64_t cols)
{
    backward(dx, y, dy, rows, cols, FP32);
}

void softmax_backward_fp16_cpu(fp16 *dx, const fp16 *y, const fp16 *dy, int64_t rows, int64_t cols)
{
    backward(dx, y, dy, rows, cols, FP16);
}

void softmax_backward_bf16_cpu(bf16 *dx, const bf16 *y, const bf16 *dy, int64_t rows, int64_t cols)
{
    backward(dx, y, dy, rows, cols, BF16);
}

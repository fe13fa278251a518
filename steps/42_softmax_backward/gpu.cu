/*
 * Step 42, the gradient of softmax on the GPU: dx_i = y_i (dy_i - s), s = sum over j of y_j dy_j.
 *
 * As in step 06 a row has as many threads as it takes for each to hold PACKS packs, here of y and as many of dy; what 1024
 * threads cannot hold is read again. Between the reads and the write stands one number a row, a sum.
 *
 * Trips over the tensor: 2 reads, 1 write (rows of up to 32 KiB).
 */
#include "gpu.cuh"
#include "steps.h"

#define PACKS 2           /* packs of 16 bytes that a thread holds, of y and of dy each */
#define MIN_BLOCK 128     /* threads of a block, at least */
#define MAX_BLOCK 1024    /* threads of a block, at most: the hardware's limit */

static __host__ __device__ constexpr int block_of(int threads)
{
    return threads < MIN_BLOCK ? MIN_BLOCK : threads;
}

/* The sum over a row's threads, in each of them: first every warp by itself, then every warp all warps. */
template <int THREADS> static __device__ float row_sum(float sum)
{
    sum = warp_sum(sum);
    if (THREADS == 32)
        return sum;
    __shared__ float of_warp[THREADS / 32];
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    return warp_sum<THREADS / 32>(of_warp[threadIdx.x % (THREADS / 32)]);
}

/* sum y dy over a pack. */
static __device__ float dot(pack<float> y, pack<float> dy)
{
    float a[4], b[4], sum = 0.0f;
    unpack(a, y);
    unpack(b, dy);
    for (int k = 0; k < 4; k++)
        sum += a[k] * b[k];
    return sum;
}

/* A pack of dx. sum: the row's, of y dy. */
static __device__ pack<float> gradient(pack<float> y, pack<float> dy, float sum)
{
    float a[4], b[4];
    unpack(a, y);
    unpack(b, dy);
    for (int k = 0; k < 4; k++)
        a[k] *= b[k] - sum;
    return make_pack<float>(a);
}

/* dx, y, dy: (rows, cols), row-major, which lie alike. THREADS threads own a row: every THREADS-th pack, perhaps an end. */
template <int THREADS>
static __global__ void __launch_bounds__(block_of(THREADS))
    softmax_backward_kernel(float *__restrict__ dx, const float *__restrict__ y, const float *__restrict__ dy, int64_t rows,
                            int64_t cols)
{
    int64_t row = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / THREADS;
    bool mine = row < rows; /* a block's other rows meet at its barrier, too */
    int t = threadIdx.x % THREADS;
    struct row_layout at = layout_row(y + (mine ? row : 0) * cols, cols);
    int64_t first = row * cols + at.head, end = mine && t < at.ends ? row * cols + end_col<float>(at, t) : -1;
    int64_t packs = mine ? at.packs : 0;

    pack<float> held_y[PACKS], held_dy[PACKS];
    for (int i = 0; i < PACKS; i++)
        if (i * THREADS + t < packs) {
            held_y[i] = load_pack(y + first + (i * THREADS + t) * 4);
            held_dy[i] = load_pack(dy + first + (i * THREADS + t) * 4);
        }
    float end_y = end >= 0 ? y[end] : 0.0f, end_dy = end >= 0 ? dy[end] : 0.0f, sum = end_y * end_dy;
    for (int i = 0; i < PACKS; i++)
        if (i * THREADS + t < packs)
            sum += dot(held_y[i], held_dy[i]);
#pragma unroll 1
    for (int64_t i = PACKS * THREADS + t; THREADS == MAX_BLOCK && i < packs; i += THREADS)
        sum += dot(load_pack(y + first + i * 4), load_pack(dy + first + i * 4));
    sum = row_sum<THREADS>(sum);

    for (int i = 0; i < PACKS; i++)
        if (i * THREADS + t < packs)
            stream_pack(dx + first + (i * THREADS + t) * 4, gradient(held_y[i], held_dy[i], sum));
#pragma unroll 1
    for (int64_t i = PACKS * THREADS + t; THREADS == MAX_BLOCK && i < packs; i += THREADS)
        stream_pack(dx + first + i * 4, gradient(load_pack(y + first + i * 4), load_pack(dy + first + i * 4), sum));
    if (end >= 0)
        dx[end] = end_y * (end_dy - sum);
}

template <int THREADS>
static void launch(float *dx, const float *y, const float *dy, int64_t rows, int64_t cols, cudaStream_t stream)
{
    constexpr int BLOCK = block_of(THREADS), ROWS = BLOCK / THREADS;
    softmax_backward_kernel<THREADS><<<(unsigned)((rows + ROWS - 1) / ROWS), BLOCK, 0, stream>>>(dx, y, dy, rows, cols);
}

void softmax_backward_gpu(float *dx, const float *y, const float *dy, int64_t rows, int64_t cols, void *, cudaStream_t stream)
{
    int64_t packs = cols / 4; /* of a row, at most */
    if (packs <= 32 * PACKS)
        launch<32>(dx, y, dy, rows, cols, stream);
    else if (packs <= 128 * PACKS)
        launch<128>(dx, y, dy, rows, cols, stream);
    else if (packs <= 512 * PACKS)
        launch<512>(dx, y, dy, rows, cols, stream);
    else
        launch<MAX_BLOCK>(dx, y, dy, rows, cols, stream);
}

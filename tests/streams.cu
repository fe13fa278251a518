#include "streams.h"

cudaStream_t stream_new(void)
{
    cudaStream_t stream;
    if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess)
        fatal("no CUDA stream: %s", gpu_error());
    return stream;
}

void stream_free(cudaStream_t stream)
{
    cudaStreamDestroy(stream);
}

void stream_poison(void *p, size_t bytes, cudaStream_t stream)
{
    cudaMemsetAsync(p, 0xff, bytes, stream);
}

static __global__ void compare_kernel(unsigned *first, const uint32_t *a, const uint32_t *b, size_t words, unsigned run)
{
    for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < words; i += gridDim.x * blockDim.x)
        if (a[i] != b[i])
            atomicMin(first, run);
}

void stream_compare(unsigned *first, const void *a, const void *b, size_t bytes, unsigned run, cudaStream_t stream)
{
    compare_kernel<<<64, 256, 0, stream>>>(first, (const uint32_t *)a, (const uint32_t *)b, bytes / 4, run);
}

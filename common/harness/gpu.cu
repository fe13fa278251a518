/*
 * GPU plumbing for C: memory, copies, the clock, and what the device is. Every CUDA call is checked; a failure is one line
 * with file, line, call and CUDA's reason, and exit status 1.
 */
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

#include "harness.h"
#include "gpu.cuh"
#include "ptx.cuh"

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        cudaError_t status_ = (call);                                                                                  \
        if (status_ != cudaSuccess)                                                                                    \
            fatal("%s:%d: %s: %s", __FILE__, __LINE__, #call, cudaGetErrorString(status_));                            \
    } while (0)

#define FLUSH_THREADS 1024

int gpu_count(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError(); /* forget it: a missing device is no failure */
        return 0;
    }
    return count;
}

const char *gpu_missing(void)
{
    static char line[256];
    int count = 0, driver = 0;
    cudaError_t status = cudaGetDeviceCount(&count);
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    if (status == cudaErrorInsufficientDriver && driver > 0)
        snprintf(line, sizeof line, "the driver is for CUDA %d.%d and this program for %d.%d; update the driver", driver / 1000,
                 driver % 100 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 100 / 10);
    else
        snprintf(line, sizeof line, "no CUDA device (%s)",
                 driver == 0 ? "and no driver for one" : cudaGetErrorString(status == cudaSuccess ? cudaErrorNoDevice : status));
    return line;
}

static const cudaDeviceProp *properties(void)
{
    static cudaDeviceProp p;
    if (!p.name[0])
        CHECK(cudaGetDeviceProperties(&p, 0));
    return &p;
}

const char *gpu_name(void)
{
    return properties()->name;
}

int gpu_capability(void)
{
    return 10 * properties()->major + properties()->minor;
}

/* What it was compiled for, as opposed to what it runs on. */
static __global__ void built_for_kernel(struct gpu_build *answer)
{
#ifdef __CUDA_ARCH__
    *answer = { __CUDA_ARCH__ / 10, HOPPER };
#endif
}

struct gpu_build gpu_built_for(void)
{
    static struct gpu_build answer;
    if (!answer.capability) {
        struct gpu_build *device;
        CHECK(cudaMalloc(&device, sizeof *device));
        built_for_kernel<<<1, 1>>>(device);
        CHECK(cudaGetLastError());
        CHECK(cudaMemcpy(&answer, device, sizeof answer, cudaMemcpyDeviceToHost));
        CHECK(cudaFree(device));
    }
    return answer;
}

size_t gpu_shared_bytes(void)
{
    return most_shared();
}

int gpu_sms_left; /* to others */

int gpu_sms(void)
{
    return properties()->multiProcessorCount - gpu_sms_left;
}

int64_t gpu_l2_bytes(void)
{
    return properties()->l2CacheSize;
}

size_t gpu_memory_available(void)
{
    size_t available = 0, total;
    CHECK(cudaMemGetInfo(&available, &total));
    return available;
}

void *gpu_allocate(size_t bytes)
{
    void *p = NULL;
    if (cudaMalloc(&p, bytes) == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return NULL;
    }
    CHECK(cudaGetLastError());
    return p;
}

void gpu_release(void *p)
{
    CHECK(cudaFree(p));
}

void gpu_fill(void *p, int byte, size_t bytes)
{
    CHECK(cudaMemset(p, byte, bytes));
}

void gpu_upload(void *device, const void *host, size_t bytes)
{
    CHECK(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
}

void gpu_download(void *host, const void *device, size_t bytes)
{
    CHECK(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
}

const char *gpu_error(void)
{
    cudaError_t launched = cudaGetLastError(), finished = cudaDeviceSynchronize();
    cudaError_t status = launched != cudaSuccess ? launched : finished;
    return status == cudaSuccess ? NULL : cudaGetErrorString(status);
}

void gpu_finish(const char *what)
{
    const char *why = gpu_error();
    if (why)
        fatal("%s on the GPU: %s", what, why);
}

/* Leaves L2 full of clean lines of something else. (A memset would leave dirty ones, for the next kernel to write back.) */
static __global__ void flush_kernel(const uint4 *buffer, int64_t packs, unsigned *sink)
{
    unsigned all = 0;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += (int64_t)gridDim.x * blockDim.x) {
        uint4 pack = buffer[i];
        all ^= pack.x ^ pack.y ^ pack.z ^ pack.w;
    }
    if (all == 0x5eed5eedu) /* never, but the compiler cannot know */
        *sink = all;
}

void gpu_flush(void)
{
    static uint4 *buffer;
    if (!buffer) {
        CHECK(cudaMalloc(&buffer, GPU_FLUSH_BYTES));
        CHECK(cudaMemset(buffer, 1, GPU_FLUSH_BYTES));
    }
    flush_kernel<<<2 * gpu_sms(), FLUSH_THREADS>>>(buffer, GPU_FLUSH_BYTES / 16, (unsigned *)buffer);
}

/* The events stand on the stream right behind the flush, so the launch itself is hidden and only the work is between them. */
double run_once_gpu(const struct work *work)
{
    if (work->timed)
        return work->timed(work);
    static cudaEvent_t begin, end;
    if (!begin) {
        CHECK(cudaEventCreate(&begin));
        CHECK(cudaEventCreate(&end));
    }
    gpu_flush();
    CHECK(cudaEventRecord(begin));
    work->run(work->arg);
    CHECK(cudaEventRecord(end));
    CHECK(cudaEventSynchronize(end));
    CHECK(cudaGetLastError());
    float ms;
    CHECK(cudaEventElapsedTime(&ms, begin, end));
    return ms;
}

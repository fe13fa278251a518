/*
 * Clusters: blocks that the hardware starts together, on sm_90 and later, and that reach each other's shared memory.
 *
 * Source: "CUDA C++ Programming Guide", the chapters on thread block clusters and on distributed shared memory.
 */
#ifndef CLUSTER_CUH
#define CLUSTER_CUH

#include <cooperative_groups.h>

#include "gpu.cuh"

/* All blocks of the cluster are here. Before sm_90 there are no clusters. */
static inline __device__ void cluster_barrier(void)
{
#if __CUDA_ARCH__ >= 900
    cooperative_groups::this_cluster().sync();
#endif
}

/*
 * A launch of `kernel`, with so many bytes of shared memory for a block. attribute: what makes it one of clusters, or a
 * cooperative one.
 */
static inline cudaLaunchConfig_t configure(const void *kernel, int64_t blocks, int threads, int shared,
                                           cudaLaunchAttribute *attribute, cudaStream_t stream)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)blocks);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = attribute;
    config.numAttrs = 1;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    return config;
}

/* Can its clusters be had? The kernel must be compiled for sm_90 or later, so that the device is one, and they must fit it. */
static inline bool has_clusters(const void *kernel, const cudaLaunchConfig_t *config)
{
    int clusters = 0;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    bool has = built_for(90, kernel) && cudaOccupancyMaxActiveClusters(&clusters, kernel, config) == cudaSuccess && clusters > 0;
    cudaGetLastError(); /* a "no" is not an error */
    return has;
}

#endif

/*
 * The machine's matrix product, where this build was given one: a CBLAS (OpenBLAS, MKL, Accelerate, ...), asked for with
 * USE_CBLAS and linked by the Makefile.
 */
#ifndef BLAS_H
#define BLAS_H

#include <stdbool.h>

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether this build has a CBLAS. Without one, the two products below return false and leave C untouched. */
bool blas_available(void);

/*
 * C = A B in fp32, all row-major and dense: A (m, k), B (k, n), C (m, n); m may be 0. On as many threads as OpenMP uses; called
 * from a parallel region, on the calling thread.
 */
bool blas_sgemm(float *c, const float *a, const float *b, int m, int n, int k);

/* C = alpha A B^T, likewise: A (m, k), B (n, k), C (m, n). */
bool blas_sgemm_transposed(float *c, const float *a, const float *b, int m, int n, int k, float alpha);

/*
 * c = a b on the GPU, by cuBLAS (blas_gpu.cu): all (n, n), of type dtype (FP32, FP16 or BF16), summed in fp32. Returns the FLOPs
 * launched, 2 n^3. The first call creates the library's handle, and is slow: do not time it.
 */
double blas_gemm_gpu(void *c, const void *a, const void *b, int n, enum dtype dtype, cudaStream_t stream);

/* Matrices of one shape, row-major, at equal distances: elements from a row to the next, and from a matrix to the next. */
struct matrices {
    void *data;
    int64_t row, next;
};

/* `count` products of (m, k) by (k, n), each size at most INT_MAX. */
struct product {
    int64_t m, n, k, count;
};

enum { BLAS_WORKSPACE_BYTES = 32 << 20 }; /* that cuBLAS asks for on its newest GPUs */

/*
 * c = scale * a b for each of `count` matrices on the GPU, by cuBLAS: a (m, k), b (k, n), c (m, n), of type dtype (FP32, FP16 or
 * BF16), summed in fp32; a and b are only read. With transpose_b, b is stored as (n, k). workspace: BLAS_WORKSPACE_BYTES on the
 * device, so that the library allocates none while it runs. The first call creates its handle, which does allocate and is slow.
 */
void blas_products_gpu(struct matrices c, struct matrices a, struct matrices b, bool transpose_b, struct product size,
                       float scale, enum dtype dtype, void *workspace, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif

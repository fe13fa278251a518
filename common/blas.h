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

/*
 * C = A B in fp32, all row-major and dense: A (m, k), B (k, n), C (m, n). On all threads of the library.
 * False, with C untouched, in a build without a CBLAS.
 */
bool blas_sgemm(float *c, const float *a, const float *b, int m, int n, int k);

/*
 * c = a b on the GPU, by cuBLAS (blas_gpu.cu): all (n, n), of type dtype (FP32, FP16 or BF16), summed in fp32. Returns the FLOPs
 * launched, 2 n^3. The first call creates the library's handle, and is slow: do not time it.
 */
double blas_gemm_gpu(void *c, const void *a, const void *b, int n, enum dtype dtype, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif

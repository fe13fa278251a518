/* The GPU's matrix product, by cuBLAS. See blas.h. Only programs that multiply matrices link it. */
#include <cublas_v2.h>

#include "blas.h"
#include "common.h"

/*
 * c = a b for (n, n) matrices of type dtype (FP32, FP16 or BF16), summed in fp32. Returns the FLOPs launched, 2 n^3. The
 * first call creates the library's handle, for the device that is current then, and is slow: do not time it.
 */
double blas_gemm_gpu(void *c, const void *a, const void *b, int n, enum dtype dtype, cudaStream_t stream)
{
    static cublasHandle_t handle;
    static const float one = 1.0f, zero = 0.0f;
    cudaDataType_t type = dtype == FP32 ? CUDA_R_32F : dtype == FP16 ? CUDA_R_16F : CUDA_R_16BF;

    if (handle == NULL && cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS)
        fatal("cuBLAS does not start on this device");
    cublasStatus_t status = cublasSetStream(handle, stream);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, n, n, n, &one, b, type, n, a, type, n, &zero, c, type, n,
                              CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status != CUBLAS_STATUS_SUCCESS)
        fatal("cuBLAS: %s", cublasGetStatusString(status));
    return 2.0 * n * n * n;
}

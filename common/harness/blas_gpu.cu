/* The GPU's matrix product, by cuBLAS. See blas.h. Only programs that multiply matrices link it. */
#include <cublas_v2.h>

#include "blas.h"
#include "harness.h"

static cudaDataType_t cuda_type(enum dtype dtype)
{
    return dtype == FP32 ? CUDA_R_32F : dtype == FP16 ? CUDA_R_16F : CUDA_R_16BF;
}

static void check(cublasStatus_t status)
{
    if (status != CUBLAS_STATUS_SUCCESS)
        fatal("cuBLAS: %s", cublasGetStatusString(status));
}

/* The library, started at the first call, for the device that is current then. No TF32, and no partial sums of 16 bits. */
static cublasHandle_t library(void)
{
    static cublasHandle_t handle;
    if (handle == NULL) {
        if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS)
            fatal("cuBLAS does not start on this device");
        check(cublasSetMathMode(handle, (cublasMath_t)(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)));
    }
    return handle;
}

double blas_gemm_gpu(void *c, const void *a, const void *b, int n, enum dtype dtype, cudaStream_t stream)
{
    static const float one = 1.0f, zero = 0.0f;
    cudaDataType_t type = cuda_type(dtype);

    check(cublasSetStream(library(), stream));
    check(cublasGemmEx(library(), CUBLAS_OP_N, CUBLAS_OP_N, n, n, n, &one, b, type, n, a, type, n, &zero, c, type, n,
                       CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    return 2.0 * n * n * n;
}

/* cuBLAS counts columns first: our row-major c = a b is its c^T = b^T a^T, where each ^T only says how it sees our matrix. */
void blas_products_gpu(struct matrices c, struct matrices a, struct matrices b, bool transpose_b, struct product size,
                       float scale, enum dtype dtype, void *workspace, cudaStream_t stream)
{
    static const float zero = 0.0f;
    cudaDataType_t type = cuda_type(dtype);

    check(cublasSetStream(library(), stream));
    check(cublasSetWorkspace(library(), workspace, BLAS_WORKSPACE_BYTES)); /* after the stream, which takes it away */
    check(cublasGemmStridedBatchedEx(library(), transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N, (int)size.n, (int)size.m,
                                     (int)size.k, &scale, b.data, type, b.row, b.next, a.data, type, a.row, a.next, &zero, c.data,
                                     type, c.row, c.next, (int)size.count, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

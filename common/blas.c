/* The matrix product of a CBLAS, or the news that there is none. See blas.h. */
#include "blas.h"

#ifdef USE_CBLAS
#include <cblas.h>

bool blas_sgemm(float *c, const float *a, const float *b, int m, int n, int k)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, 1.0f, a, k, b, n, 0.0f, c, n);
    return true;
}

#else

bool blas_sgemm(float *c, const float *a, const float *b, int m, int n, int k)
{
    (void)c, (void)a, (void)b, (void)m, (void)n, (void)k;
    return false;
}

#endif

/* The matrix products of a CBLAS, or the news that there is none. See blas.h. */
#include "blas.h"

#ifdef USE_CBLAS
#include <cblas.h>

#include "common.h"

/* OpenBLAS has threads of its own, and this to say how many; no other CBLAS has it, and there it is NULL. */
void openblas_set_num_threads(int threads) __attribute__((weak));

static void use_our_threads(void)
{
    if (openblas_set_num_threads)
        openblas_set_num_threads(cpu_threads());
}

bool blas_available(void)
{
    return true;
}

bool blas_sgemm(float *c, const float *a, const float *b, int m, int n, int k)
{
    use_our_threads();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, 1.0f, a, k, b, n, 0.0f, c, n);
    return true;
}

bool blas_sgemm_transposed(float *c, const float *a, const float *b, int m, int n, int k, float alpha)
{
    use_our_threads();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, alpha, a, k, b, k, 0.0f, c, n);
    return true;
}

#else

bool blas_available(void)
{
    return false;
}

bool blas_sgemm(float *c, const float *a, const float *b, int m, int n, int k)
{
    (void)c, (void)a, (void)b, (void)m, (void)n, (void)k;
    return false;
}

bool blas_sgemm_transposed(float *c, const float *a, const float *b, int m, int n, int k, float alpha)
{
    (void)c, (void)a, (void)b, (void)m, (void)n, (void)k, (void)alpha;
    return false;
}

#endif

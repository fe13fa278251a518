/* The matrix products of a CBLAS, or the news that there is none. See blas.h. */
#include "blas.h"

#ifdef USE_CBLAS
#include <cblas.h>

#include "harness.h"

#ifdef _OPENMP
#include <omp.h>
#else
#define omp_in_parallel() 1
#endif

/* OpenBLAS has threads of its own, and this to say how many; no other CBLAS has it, and there it is NULL. */
void openblas_set_num_threads(int threads) __attribute__((weak));

/*
 * c = alpha a b: each of our threads does some of the rows, by a call for which the library has one thread. Its own threads wait
 * in loops that do not sleep, and so do OpenMP's: side by side, each would keep the other from the cores.
 */
static void product(float *c, const float *a, const float *b, bool transpose_b, int m, int n, int k, float alpha)
{
    int threads = omp_in_parallel() ? 1 : cpu_threads(), rows = (m + threads - 1) / threads;
    if (m == 0) /* a thread's share of few rows */
        return;
    if (openblas_set_num_threads)
        openblas_set_num_threads(1);
#pragma omp parallel for
    for (int row = 0; row < m; row += rows)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans, m - row < rows ? m - row : rows, n, k,
                    alpha, a + (size_t)row * k, k, b, transpose_b ? k : n, 0.0f, c + (size_t)row * n, n);
}

bool blas_available(void)
{
    return true;
}

bool blas_sgemm(float *c, const float *a, const float *b, int m, int n, int k)
{
    product(c, a, b, false, m, n, k, 1.0f);
    return true;
}

bool blas_sgemm_transposed(float *c, const float *a, const float *b, int m, int n, int k, float alpha)
{
    product(c, a, b, true, m, n, k, alpha);
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

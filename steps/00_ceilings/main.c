/* Step 00: the ruler. What this machine can do at most; every later step is drawn against it. */
#include "blas.h"
#include "harness.h"
#include "steps.h"

int main(int argc, char **argv)
{
    static const struct ceilings_step step = {
        .name = "00_ceilings",
        .idea = "the ruler: what this machine can do at most",
        .copy_cpu = copy_cpu,
        .copy_cached_cpu = copy_cached_cpu,
        .read_cpu = read_cpu,
        .fma_cpu = fma_cpu,
        .exp_cpu = exp_cpu,
        .matmul_cpu = blas_sgemm,
        .copy_gpu = GPU(copy_gpu),
        .read_gpu = GPU(read_gpu),
        .fma_gpu = GPU(fma_gpu),
        .exp_gpu = GPU(exp_gpu),
        .matmul_gpu = GPU(blas_gemm_gpu),
    };
    return ceilings_main(&step, argc, argv);
}

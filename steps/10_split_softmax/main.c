/* Step 10: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

const struct softmax_step split_softmax = {
    .name = "10_split_softmax",
    .idea = "a row too long for any cluster, or for one core",
    .exercise = "shared_softmax grid_merge --rows 1 --cols 4Mi",
    .reads = 1,
    .writes = 1,
    .cpu_reads = 2,   /* 1 as long as the caches hold the row */
    .exps = 2,        /* one for the sum, one to normalise; on a CPU 1, as in step 07, where threads do not share a row */
    .gpu_exps = 2.25, /* five for a pack of four, one to normalise */
    .cpu = split_softmax_cpu,
    .cpu_sum = { .lanes = 32, .block = 512 },
    .gpu = GPU(split_softmax_gpu),
    .gpu_sum = { .lanes = 16384, .extra = 160 },
    .cpu_fp16 = split_softmax_fp16_cpu,
    .gpu_fp16 = GPU(split_softmax_fp16_gpu),
    .cpu_bf16 = split_softmax_bf16_cpu,
    .gpu_bf16 = GPU(split_softmax_bf16_gpu),
    .workspace = GPU(split_softmax_workspace),
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return softmax_main(&split_softmax, &cluster_softmax, argc, argv);
}
#endif

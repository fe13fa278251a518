/* Step 09: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

const struct softmax_step cluster_softmax = {
    .name = "09_cluster_softmax",
    .idea = "a row too long for one block: a cluster of blocks",
    .exercise = "cluster_merge",
    .reads = 1,
    .writes = 1,
    .exps = 2.25, /* five for a pack of four, one to normalise */
    .gpu = GPU(cluster_softmax_gpu), /* a CPU has nothing like it */
    .gpu_sum = { .lanes = 16384, .extra = 160 },
    .gpu_fp16 = GPU(cluster_softmax_fp16_gpu),
    .gpu_bf16 = GPU(cluster_softmax_bf16_gpu),
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return softmax_main(&cluster_softmax, &shelved_softmax, argc, argv);
}
#endif

/* Step 04: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

const struct softmax_step vector_softmax = {
    .name = "04_vector_softmax",
    .idea = "several states side by side, merged at the end",
    .exercise = "lanes_merge row_state merge_pack warp_merge",
    .reads = 2,
    .writes = 1,
    .exps = 2,        /* one in the merge, the other being exp(0); one to normalise */
    .gpu_exps = 2.25, /* five for a pack of four, one to normalise */
    .cpu = vector_softmax_cpu,
    .cpu_sum = { .lanes = 56, .extra = 2 }, /* 64, of links that take 4.45 where 4 are counted */
    .gpu = GPU(vector_softmax_gpu),
    .gpu_sum = { .lanes = 32, .extra = 4 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return softmax_main(&vector_softmax, &online_softmax, argc, argv);
}
#endif

/* Step 05: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

const struct softmax_step block_softmax = {
    .name = "05_block_softmax",
    .idea = "a block has a state, and blocks merge",
    .exercise = "block_softmax_cpu row_merge",
    .reads = 2,
    .writes = 1,
    .exps = 2,        /* one for the sum, one to normalise */
    .gpu_exps = 2.25, /* five for a pack of four, one to normalise */
    .cpu = block_softmax_cpu,
    .cpu_sum = { .lanes = 32, .block = 512 },
    .gpu = GPU(block_softmax_gpu),
    .gpu_sum = { .lanes = 1024, .extra = 64 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return softmax_main(&block_softmax, &vector_softmax, argc, argv);
}
#endif

/* Step 06: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

const struct softmax_step resident_softmax = {
    .name = "06_resident_softmax",
    .idea = "keep the row on chip between the passes",
    .exercise = "chunk_turn row_scale",
    .reads = 1,
    .writes = 1,
    .exps = 1,        /* kept, and scaled in the end */
    .gpu_exps = 2.25, /* registers hold x: five for a pack of four, one to normalise */
    .cpu = resident_softmax_cpu,
    .cpu_sum = { .lanes = 32, .block = 512 },
    .gpu = GPU(resident_softmax_gpu),
    .gpu_sum = { .lanes = 1024, .extra = 64 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return softmax_main(&resident_softmax, &block_softmax, argc, argv);
}
#endif

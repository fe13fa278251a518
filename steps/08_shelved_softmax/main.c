/* Step 08: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

const struct softmax_step shelved_softmax = {
    .name = "08_shelved_softmax",
    .idea = "shared memory holds packs, too: a block holds four times as long a row",
    .exercise = "start_loads merge_share store_share",
    .reads = 1,
    .writes = 1,
    .exps = 2.25, /* five for a pack of four, one to normalise */
    .gpu = GPU(shelved_softmax_gpu), /* a CPU has nothing like it */
    .gpu_sum = { .lanes = 512, .extra = 64 },
    .gpu_fp16 = GPU(shelved_softmax_fp16_gpu),
    .gpu_bf16 = GPU(shelved_softmax_bf16_gpu),
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return softmax_main(&shelved_softmax, &narrow_softmax, argc, argv);
}
#endif

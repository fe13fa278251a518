/* Step 03: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

const struct softmax_step online_softmax = {
    .name = "03_online_softmax",
    .idea = "one pass finds the maximum and the sum",
    .exercise = "online_softmax_cpu online_softmax_kernel --rows 2Ki",
    .reads = 2,
    .writes = 1,
    .exps = 3, /* two in the merge, one to normalise */
    .cpu = online_softmax_cpu,
    .gpu = GPU(online_softmax_gpu),
    .gpu_sum = { .lanes = 32 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return softmax_main(&online_softmax, &safe_softmax, argc, argv);
}
#endif

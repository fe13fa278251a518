/* Step 02: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

const struct softmax_step safe_softmax = {
    .name = "02_safe_softmax",
    .idea = "subtract the maximum: three passes",
    .exercise = "safe_softmax_cpu safe_softmax_kernel --rows 2Ki",
    .reads = 3,
    .writes = 1,
    .exps = 2, /* one for the sum, one to normalise */
    .cpu = safe_softmax_cpu,
    .gpu = GPU(safe_softmax_gpu),
    .gpu_sum = { .lanes = 32 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return softmax_main(&safe_softmax, &naive_softmax, argc, argv);
}
#endif

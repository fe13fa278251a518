/* Step 01: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

const struct softmax_step naive_softmax = {
    .name = "01_naive_softmax",
    .idea = "the definition, and where it overflows",
    .exercise = "naive_softmax_cpu naive_softmax_kernel --rows 2Ki",
    .reads = 2,
    .writes = 1,
    .exps = 2, /* one for the sum, one to normalise */
    .overflows = true,
    .cpu = naive_softmax_cpu,
    .gpu = GPU(naive_softmax_gpu),
    .gpu_sum = { .lanes = 32 },
    .cpu_fp16 = naive_softmax_fp16_cpu,
    .gpu_fp16 = GPU(naive_softmax_fp16_gpu),
    .fp16_unit = 0x1p-11, /* it computes in fp16, too */
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return softmax_main(&naive_softmax, NULL, argc, argv);
}
#endif

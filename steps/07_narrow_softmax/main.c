/* Step 07: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

const struct softmax_step narrow_softmax = {
    .name = "07_narrow_softmax",
    .idea = "16 bits an element, computed in 32",
    .exercise = "share_softmax",
    .reads = 1,
    .writes = 1,
    .exps = 1,        /* kept, and scaled in the end */
    .gpu_exps = 2.25, /* registers hold x: five for a pack of four, one to normalise */
    .cpu = narrow_softmax_cpu,
    .cpu_sum = { .lanes = 32, .block = 512 },
    .gpu = GPU(narrow_softmax_gpu),
    .gpu_sum = { .lanes = 1024, .extra = 64 },
    .cpu_fp16 = narrow_softmax_fp16_cpu,
    .gpu_fp16 = GPU(narrow_softmax_fp16_gpu),
    .cpu_bf16 = narrow_softmax_bf16_cpu,
    .gpu_bf16 = GPU(narrow_softmax_bf16_gpu),
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return softmax_main(&narrow_softmax, &resident_softmax, argc, argv);
}
#endif

/* Step 02: what it claims. The program measures the claim. */
#include "common.h"
#include "steps.h"

int main(int argc, char **argv)
{
    static const struct softmax_step step = {
        .name = "02_safe_softmax",
        .idea = "subtract the maximum: three passes",
        .reads = 3,
        .writes = 1,
        .exps = 2, /* one for the sum, one to normalise */
        .cpu = safe_softmax_cpu,
        .gpu = GPU(safe_softmax_gpu),
        .gpu_sum = { .lanes = 32 },
    };
    return softmax_main(&step, argc, argv);
}

/* Step 03: what it claims. The program measures the claim. */
#include "common.h"
#include "steps.h"

int main(int argc, char **argv)
{
    static const struct softmax_step step = {
        .name = "03_online_softmax",
        .idea = "one pass finds the maximum and the sum",
        .reads = 2,
        .writes = 1,
        .exps = 3, /* two in the merge, one to normalise */
        .cpu = online_softmax_cpu,
        .gpu = GPU(online_softmax_gpu),
        .gpu_sum = { .lanes = 32 },
    };
    return softmax_main(&step, argc, argv);
}

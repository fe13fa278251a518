/* Step 64: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost specialized_backward_cost(struct attention p, enum dtype dtype)
{
    double rows = (double)p.batch * (double)p.heads * (double)p.seq_q;
    return (struct cost){
        /* as in step 52: dO twice, and dQ's sums in fp32: zeros, and read again. In between they are added to in caches */
        .bytes = 2 * attention_bytes(p, dtype) + rows * (double)p.dim * (2 * 4 + (double)dtype_bytes(dtype)),
        .exps = attention_pairs(p),
    };
}

const struct attention_step specialized_backward = {
    .name = "64_specialized_backward",
    .idea = "some warps copy, others compute, and nobody waits for the whole block",
    .exercise = "load_blocks produce",
    .predict = specialized_backward_cost,
    .backward = { .gpu_fp16 = GPU(specialized_backward_fp16_gpu), .gpu_bf16 = GPU(specialized_backward_bf16_gpu),
                  .any_order = true },
    .workspace = GPU(specialized_backward_workspace),
    .rounding = { .weights = true },
    .capability = 90,
    .hopper = true,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_backward_main(&specialized_backward, &across_backward, argc, argv);
}
#endif

/* Step 67: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost ordered_backward_cost(struct attention p, enum dtype dtype)
{
    double rows = (double)p.batch * (double)p.heads * (double)p.seq_q;
    return (struct cost){
        /* as in step 52: dO twice, and dQ's sums in fp32: written, and read again. In between they are added to in caches */
        .bytes = 2 * attention_bytes(p, dtype) + rows * (double)p.dim * (2 * 4 + (double)dtype_bytes(dtype)),
        .exps = attention_pairs(p),
    };
}

const struct attention_step ordered_backward = {
    .name = "67_ordered_backward",
    .idea = "blocks of keys add to dQ one after the other: the same bits each time",
    .exercise = "add_blocks",
    .predict = ordered_backward_cost,
    .backward = { .gpu_fp16 = GPU(ordered_backward_fp16_gpu), .gpu_bf16 = GPU(ordered_backward_bf16_gpu) },
    .workspace = GPU(ordered_backward_workspace),
    .rounding = { .weights = true },
    .capability = 90,
    .hopper = true,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_backward_main(&ordered_backward, &hopper_backward, argc, argv);
}
#endif

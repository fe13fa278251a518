/* Step 56: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost sectioned_backward_cost(struct attention p, enum dtype dtype)
{
    double rows = (double)p.batch * (double)p.heads * (double)p.seq_q;
    return (struct cost){
        /* as in step 52: dO twice, and dQ's sums in fp32: zeros, and read again. In between they are added to in caches */
        .bytes = 2 * attention_bytes(p, dtype) + rows * (double)p.dim * (2 * 4 + (double)dtype_bytes(dtype)),
        .exps = attention_pairs(p),
    };
}

const struct attention_step sectioned_backward = {
    .name = "56_sectioned_backward",
    .idea = "the longest blocks first: keys that most queries see, of 16 heads at a time",
    .exercise = "tile_of_block block_of",
    .predict = sectioned_backward_cost,
    .backward = { .gpu_fp16 = GPU(sectioned_backward_fp16_gpu), .gpu_bf16 = GPU(sectioned_backward_bf16_gpu), .any_order = true },
    .workspace = GPU(sectioned_backward_workspace),
    .rounding = { .weights = true },
    .capability = 80,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_backward_main(&sectioned_backward, &tensor_core_backward, argc, argv);
}
#endif

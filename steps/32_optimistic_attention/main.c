/* Step 32: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost optimistic_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p),
    };
}

const struct attention_step optimistic_attention = {
    .name = "32_optimistic_attention",
    .idea = "keep the first maximum, check the sums, repair",
    .exercise = "repair",
    .predict = optimistic_attention_cost,
    .gpu_fp16 = GPU(optimistic_attention_fp16_gpu),
    .gpu_bf16 = GPU(optimistic_attention_bf16_gpu),
    .workspace = GPU(optimistic_attention_workspace),
    .rounding = { .weights = true },
    .capability = 90,
    .hopper = true,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&optimistic_attention, &persistent_attention, argc, argv);
}
#endif

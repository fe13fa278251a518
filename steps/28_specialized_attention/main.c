/* Step 28: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost specialized_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p),
    };
}

const struct attention_step specialized_attention = {
    .name = "28_specialized_attention",
    .idea = "some warps copy, others compute",
    .exercise = "produce_keys produce_values produce_queries produce",
    .predict = specialized_attention_cost,
    .gpu_fp16 = GPU(specialized_attention_fp16_gpu),
    .gpu_bf16 = GPU(specialized_attention_bf16_gpu),
    .rounding = { .weights = true },
    .capability = 90,
    .hopper = true,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&specialized_attention, &warpgroup_attention, argc, argv);
}
#endif

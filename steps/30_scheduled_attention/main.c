/* Step 30: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost scheduled_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p),
    };
}

const struct attention_step scheduled_attention = {
    .name = "30_scheduled_attention",
    .idea = "one block an SM, which takes tile after tile, the longest first",
    .exercise = "announce take produce_keys",
    .predict = scheduled_attention_cost,
    .gpu_fp16 = GPU(scheduled_attention_fp16_gpu),
    .gpu_bf16 = GPU(scheduled_attention_bf16_gpu),
    .workspace = GPU(scheduled_attention_workspace),
    .rounding = { .weights = true },
    .capability = 90,
    .hopper = true,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&scheduled_attention, &overlapped_attention, argc, argv);
}
#endif

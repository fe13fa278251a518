/* Step 31: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost persistent_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p),
    };
}

const struct attention_step persistent_attention = {
    .name = "31_persistent_attention",
    .idea = "one block an SM, which never drains",
    .exercise = "skip consume",
    .predict = persistent_attention_cost,
    .gpu_fp16 = GPU(persistent_attention_fp16_gpu),
    .gpu_bf16 = GPU(persistent_attention_bf16_gpu),
    .workspace = GPU(persistent_attention_workspace),
    .rounding = { .weights = true },
    .capability = 90,
    .hopper = true,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&persistent_attention, &scheduled_attention, argc, argv);
}
#endif

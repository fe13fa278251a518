/* Step 22: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost folded_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p), /* and one a query for each tile of keys */
    };
}

const struct attention_step folded_attention = {
    .name = "22_folded_attention",
    .idea = "one multiply-add and one exponential a score",
    .exercise = "softmax",
    .predict = folded_attention_cost,
    .gpu_fp16 = GPU(folded_attention_fp16_gpu),
    .gpu_bf16 = GPU(folded_attention_bf16_gpu),
    .rounding = { .weights = true },
    .capability = 80,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&folded_attention, &wide_attention, argc, argv);
}
#endif

/* Step 23: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost lean_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p), /* and one a query for each tile of keys */
    };
}

const struct attention_step lean_attention = {
    .name = "23_lean_attention",
    .idea = "what not every tile needs is not done for every tile",
    .exercise = "follow softmax",
    .predict = lean_attention_cost,
    .gpu_fp16 = GPU(lean_attention_fp16_gpu),
    .gpu_bf16 = GPU(lean_attention_bf16_gpu),
    .rounding = { .weights = true },
    .capability = 80,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&lean_attention, &folded_attention, argc, argv);
}
#endif

/* Step 24: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost boxed_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p), /* and one a query for each tile of keys */
    };
}

const struct attention_step boxed_attention = {
    .name = "24_boxed_attention",
    .idea = "one thread asks for a tile, as a box of a tensor",
    .exercise = "further boxed_attention_kernel.loop",
    .predict = boxed_attention_cost,
    .gpu_fp16 = GPU(boxed_attention_fp16_gpu),
    .gpu_bf16 = GPU(boxed_attention_bf16_gpu),
    .rounding = { .weights = true },
    .capability = 90,
    .hopper = true,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&boxed_attention, &lean_attention, argc, argv);
}
#endif

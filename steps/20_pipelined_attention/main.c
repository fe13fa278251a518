/* Step 20: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost pipelined_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p), /* and one a query for each tile of keys */
    };
}

const struct attention_step pipelined_attention = {
    .name = "20_pipelined_attention",
    .idea = "the next tile travels while this one is multiplied",
    .exercise = "copy_tile pipelined_attention_kernel.loop",
    .predict = pipelined_attention_cost,
    .gpu_fp16 = GPU(pipelined_attention_fp16_gpu),
    .gpu_bf16 = GPU(pipelined_attention_bf16_gpu),
    .rounding = { .weights = true },
    .capability = 80,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&pipelined_attention, &swizzled_attention, argc, argv);
}
#endif

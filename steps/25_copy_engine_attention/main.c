/* Step 25: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost copy_engine_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p), /* and one a query for each tile of keys */
    };
}

const struct attention_step copy_engine_attention = {
    .name = "25_copy_engine_attention",
    .idea = "the copy engine works ahead, into a ring of places",
    .exercise = "load_tiles attend.loop",
    .predict = copy_engine_attention_cost,
    .gpu_fp16 = GPU(copy_engine_attention_fp16_gpu),
    .gpu_bf16 = GPU(copy_engine_attention_bf16_gpu),
    .rounding = { .weights = true },
    .capability = 90,
    .hopper = true,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&copy_engine_attention, &boxed_attention, argc, argv);
}
#endif

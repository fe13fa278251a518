/* Step 16: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost narrow_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p), /* and one a query for each tile of keys */
    };
}

const struct attention_step narrow_attention = {
    .name = "16_narrow_attention",
    .idea = "elements of 16 bits, a pack of them at a time",
    .exercise = "load_tile score",
    .predict = narrow_attention_cost,
    .gpu_fp16 = GPU(narrow_attention_fp16_gpu),
    .gpu_bf16 = GPU(narrow_attention_bf16_gpu),
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&narrow_attention, &flash_attention, argc, argv);
}
#endif

/* Step 14: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost flash_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p), /* and one a query for each tile of keys */
    };
}

const struct attention_step flash_attention = {
    .name = "14_flash_attention",
    .idea = "tiles of queries against tiles of keys",
    .exercise = "merge_tile add_values merge_scores",
    .predict = flash_attention_cost,
    .cpu = flash_attention_cpu,
    .gpu = GPU(flash_attention_gpu),
    .shared = GPU(flash_attention_shared),
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&flash_attention, &fused_attention, argc, argv);
}
#endif

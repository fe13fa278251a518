/* Step 15: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost register_tiled_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p), /* and one a query for each tile of keys */
    };
}

const struct attention_step register_tiled_attention = {
    .name = "15_register_tiled_attention",
    .idea = "every number loaded is used many times",
    .exercise = "product_rows multiply",
    .predict = register_tiled_attention_cost,
    .cpu = register_tiled_attention_cpu,
    .gpu = GPU(register_tiled_attention_gpu),
    .shared = GPU(register_tiled_attention_shared),
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&register_tiled_attention, &flash_attention, argc, argv);
}
#endif

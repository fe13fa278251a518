/* Step 10: what it claims. The program measures the claim. */
#include "common.h"
#include "steps.h"

static struct attention_cost flash_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct attention_cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p), /* and one a query for each tile of keys */
    };
}

int main(int argc, char **argv)
{
    static const struct attention_step step = {
        .name = "10_flash_attention",
        .idea = "tiles of queries against tiles of keys",
        .predict = flash_attention_cost,
        .cpu = flash_attention_cpu,
        .gpu = GPU(flash_attention_gpu),
        .shared = GPU(flash_attention_shared),
    };
    return attention_main(&step, argc, argv);
}

/* Step 17: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost fragment_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p), /* and one a query for each tile of keys */
    };
}

const struct attention_step fragment_attention = {
    .name = "17_fragment_attention",
    .idea = "the scores on tensor cores, which want them in fragments",
    .exercise = "load_q load_k scores",
    .predict = fragment_attention_cost,
    .gpu_fp16 = GPU(fragment_attention_fp16_gpu),
    .gpu_bf16 = GPU(fragment_attention_bf16_gpu),
    .capability = 75,      /* the first GPUs with this instruction */
    .bf16_capability = 80, /* in fp16; in bf16 it came later */
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&fragment_attention, &narrow_attention, argc, argv);
}
#endif

/* Step 18: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost tensor_core_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p), /* and one a query for each tile of keys */
    };
}

const struct attention_step tensor_core_attention = {
    .name = "18_tensor_core_attention",
    .idea = "both products on tensor cores: the scores are the next operand as they lie",
    .exercise = "load_v add_values",
    .predict = tensor_core_attention_cost,
    .gpu_fp16 = GPU(tensor_core_attention_fp16_gpu),
    .gpu_bf16 = GPU(tensor_core_attention_bf16_gpu),
    .rounding = { .weights = true },
    .capability = 75,      /* the first GPUs with this instruction */
    .bf16_capability = 80, /* in fp16; in bf16 it came later */
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&tensor_core_attention, &fragment_attention, argc, argv);
}
#endif

/* Step 36: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost merged_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each 4 rows, from the GPU's cache */
        .exps = attention_pairs(p),
    };
}

const struct attention_step merged_attention = {
    .name = "36_merged_attention",
    .idea = "the rows of a block are merged side by side, four columns a thread",
    .exercise = "merge_pieces",
    .predict = merged_attention_cost,
    .gpu = GPU(merged_attention_gpu),
    .gpu_fp16 = GPU(merged_attention_fp16_gpu),
    .gpu_bf16 = GPU(merged_attention_bf16_gpu),
    .workspace = GPU(merged_attention_workspace),
    .usual = { .heads = 32, .kv_heads = 8, .seq_q = 1, .seq_k = 16384, .dim = 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&merged_attention, &grouped_attention, argc, argv);
}
#endif

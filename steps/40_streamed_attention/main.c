/* Step 40: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost streamed_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){ .bytes = attention_bytes(p, dtype), .exps = attention_pairs(p) };
}

const struct attention_step streamed_attention = {
    .name = "40_streamed_attention",
    .idea = "tiles of K and V travel while others are multiplied",
    .exercise = "copy_tiles attend",
    .predict = streamed_attention_cost,
    .gpu_fp16 = GPU(streamed_attention_fp16_gpu),
    .gpu_bf16 = GPU(streamed_attention_bf16_gpu),
    .workspace = GPU(streamed_attention_workspace),
    .rounding = { .weights = true },
    .capability = 80,
    .dims = { 64, 128 },
    .usual = { .heads = 32, .kv_heads = 8, .seq_q = 1, .seq_k = 16384, .dim = 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&streamed_attention, &packed_attention, argc, argv);
}
#endif

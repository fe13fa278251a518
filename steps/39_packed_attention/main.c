/* Step 39: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost packed_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){ .bytes = attention_bytes(p, dtype), .exps = attention_pairs(p) };
}

const struct attention_step packed_attention = {
    .name = "39_packed_attention",
    .idea = "tiles of K and V come through shared memory, and a warp has its own",
    .exercise = "copy_tile attend",
    .predict = packed_attention_cost,
    .gpu_fp16 = GPU(packed_attention_fp16_gpu),
    .gpu_bf16 = GPU(packed_attention_bf16_gpu),
    .workspace = GPU(packed_attention_workspace),
    .rounding = { .weights = true },
    .capability = 80,
    .dims = { 64, 128 },
    .usual = { .heads = 32, .kv_heads = 8, .seq_q = 1, .seq_k = 16384, .dim = 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&packed_attention, &valued_attention, argc, argv);
}
#endif

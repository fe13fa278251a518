/* Step 38: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost valued_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){ .bytes = attention_bytes(p, dtype), .exps = attention_pairs(p) };
}

const struct attention_step valued_attention = {
    .name = "38_valued_attention",
    .idea = "a tensor core multiplies weights and values, too, and the weights stay in registers",
    .exercise = "load_v add_values attend",
    .predict = valued_attention_cost,
    .gpu_fp16 = GPU(valued_attention_fp16_gpu),
    .gpu_bf16 = GPU(valued_attention_bf16_gpu),
    .workspace = GPU(valued_attention_workspace),
    .rounding = { .weights = true },
    .capability = 80,
    .dims = { 64, 128 },
    .usual = { .heads = 32, .kv_heads = 8, .seq_q = 1, .seq_k = 16384, .dim = 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&valued_attention, &scored_attention, argc, argv);
}
#endif

/* Step 37: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost scored_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){ .bytes = attention_bytes(p, dtype), .exps = attention_pairs(p) };
}

const struct attention_step scored_attention = {
    .name = "37_scored_attention",
    .idea = "the queries of a group are the rows of one tile of a tensor core, which makes their scores",
    .exercise = "load_q attend",
    .predict = scored_attention_cost,
    .gpu_fp16 = GPU(scored_attention_fp16_gpu),
    .gpu_bf16 = GPU(scored_attention_bf16_gpu),
    .workspace = GPU(scored_attention_workspace),
    .capability = 80,
    .dims = { 64, 128 },
    .usual = { .heads = 32, .kv_heads = 8, .seq_q = 1, .seq_k = 16384, .dim = 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&scored_attention, &merged_attention, argc, argv);
}
#endif

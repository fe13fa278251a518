/* Step 41: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

/* Of one sequence, with as many keys as it has; the program adds them up. */
static struct cost paged_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){ .bytes = attention_bytes(p, dtype), .exps = attention_pairs(p) };
}

const struct attention_step paged_attention = {
    .name = "41_paged_attention",
    .idea = "keys and values lie in pages of a pool, and a table says in which",
    .exercise = "find_keys find_key copy_tiles",
    .predict = paged_attention_cost,
    .paged = {
        .cpu = paged_attention_cpu,
        .cpu_fp16 = paged_attention_fp16_cpu,
        .gpu_fp16 = GPU(paged_attention_fp16_gpu),
        .cpu_bf16 = paged_attention_bf16_cpu,
        .gpu_bf16 = GPU(paged_attention_bf16_gpu),
        .scratch = paged_attention_scratch,
        .workspace = GPU(paged_attention_workspace),
    },
    .rounding = { .weights = true },
    .capability = 80,
    .gpu_dims = { 64, 128 },
    .usual = { .heads = 32, .kv_heads = 8, .seq_q = 1, .seq_k = 16384, .dim = 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    before_on_cpu = &grouped_attention; /* the steps between have a GPU version alone */
    return attention_main(&paged_attention, &streamed_attention, argc, argv);
}
#endif

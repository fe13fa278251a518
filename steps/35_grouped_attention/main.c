/* Step 35: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost grouped_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* on a GPU K and V are read again for each 4 rows, from its cache */
        .exps = attention_pairs(p),
    };
}

const struct attention_step grouped_attention = {
    .name = "35_grouped_attention",
    .idea = "queries that share a head of K and V share each load of it",
    .exercise = "add_columns attend",
    .predict = grouped_attention_cost,
    .cpu = grouped_attention_cpu,
    .gpu = GPU(grouped_attention_gpu),
    .cpu_fp16 = grouped_attention_fp16_cpu,
    .gpu_fp16 = GPU(grouped_attention_fp16_gpu),
    .cpu_bf16 = grouped_attention_bf16_cpu,
    .gpu_bf16 = GPU(grouped_attention_bf16_gpu),
    .workspace = GPU(grouped_attention_workspace),
    .scratch = grouped_attention_scratch,
    .usual = { .heads = 32, .kv_heads = 8, .seq_q = 1, .seq_k = 16384, .dim = 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&grouped_attention, &split_attention, argc, argv);
}
#endif

/* Step 34: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost split_attention_cost(struct attention p, enum dtype dtype)
{
    struct attention each = p; /* a head of K and V for each query: nobody shares what it reads */
    each.batch *= p.heads * p.seq_q;
    each.heads = each.kv_heads = each.seq_q = 1;
    return (struct cost){ .bytes = attention_bytes(each, dtype), .exps = attention_pairs(p) };
}

const struct attention_step split_attention = {
    .name = "34_split_attention",
    .idea = "the keys of a query are shared, and the parts merged",
    .exercise = "merge_pieces",
    .predict = split_attention_cost,
    .cpu = split_attention_cpu,
    .gpu = GPU(split_attention_gpu),
    .cpu_fp16 = split_attention_fp16_cpu,
    .gpu_fp16 = GPU(split_attention_fp16_gpu),
    .cpu_bf16 = split_attention_bf16_cpu,
    .gpu_bf16 = GPU(split_attention_bf16_gpu),
    .workspace = GPU(split_attention_workspace),
    .scratch = split_attention_scratch,
    .usual = { .heads = 1, .seq_q = 1, .seq_k = 131072, .dim = 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&split_attention, &decode_attention, argc, argv);
}
#endif

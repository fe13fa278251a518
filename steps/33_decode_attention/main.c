/* Step 33: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost decode_attention_cost(struct attention p, enum dtype dtype)
{
    struct attention each = p; /* a head of K and V for each query: nobody shares what it reads */
    each.batch *= p.heads * p.seq_q;
    each.heads = each.kv_heads = each.seq_q = 1;
    return (struct cost){ .bytes = attention_bytes(each, dtype), .exps = attention_pairs(p) };
}

const struct attention_step decode_attention = {
    .name = "33_decode_attention",
    .idea = "one query against a long cache: the limit is reading",
    .exercise = "weigh merge_keys",
    .predict = decode_attention_cost,
    .cpu = decode_attention_cpu,
    .gpu = GPU(decode_attention_gpu),
    .cpu_fp16 = decode_attention_fp16_cpu,
    .gpu_fp16 = GPU(decode_attention_fp16_gpu),
    .cpu_bf16 = decode_attention_bf16_cpu,
    .gpu_bf16 = GPU(decode_attention_bf16_gpu),
    .usual = { .heads = 1, .seq_q = 1, .seq_k = 131072, .dim = 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&decode_attention, &fused_attention, argc, argv);
}
#endif

/* Step 29: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost overlapped_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p),
    };
}

const struct attention_step overlapped_attention = {
    .name = "29_overlapped_attention",
    .idea = "the next scores are multiplied under this softmax",
    .exercise = "next_block",
    .predict = overlapped_attention_cost,
    .gpu_fp16 = GPU(overlapped_attention_fp16_gpu),
    .gpu_bf16 = GPU(overlapped_attention_bf16_gpu),
    .rounding = { .weights = true },
    .capability = 90,
    .hopper = true,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&overlapped_attention, &specialized_attention, argc, argv);
}
#endif

/* Step 68: what it claims. The program measures the claim. */
#include "harness.h"
#include "ring/ring.h"
#include "steps.h"

static struct cost ring_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* and what travels, from memory to memory */
        .exps = attention_pairs(p),         /* and one for each query and block that is merged */
    };
}

const struct attention_step ring_attention = {
    .name = "68_ring_attention",
    .idea = "blocks of keys travel round a ring of ranks, and every rank merges what arrives",
    .exercise = "merge attend",
    .predict = ring_attention_cost,
    .cpu = ring_attention_cpu,
    .scratch = ring_memory,
    .gpu_fp16 = GPU(ring_attention_fp16_gpu),
    .gpu_bf16 = GPU(ring_attention_bf16_gpu),
    .rounding = { .weights = true, .parts = true },
    .capability = 90,
    .hopper = true,
    .gpu_dims = { 64, 128 },
    .ring = true,
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&ring_attention, &register_tiled_attention, argc, argv);
}
#endif

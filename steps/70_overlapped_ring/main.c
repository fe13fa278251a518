/* Step 70: what it claims. The program measures the claim. */
#include "harness.h"
#include "ring/ring.h"
#include "steps.h"

static struct cost overlapped_ring_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* and what travels, from memory to memory */
        .exps = attention_pairs(p),         /* and one for each query and piece that is merged */
    };
}

const struct attention_step overlapped_ring = {
    .name = "70_overlapped_ring",
    .idea = "the next block travels while this one is attended to",
    .exercise = "overlapped_ring_rank --causal",
    .predict = overlapped_ring_cost,
    .cpu = overlapped_ring_cpu,
    .scratch = ring_memory,
    .gpu_fp16 = GPU(overlapped_ring_fp16_gpu),
    .gpu_bf16 = GPU(overlapped_ring_bf16_gpu),
    .rounding = { .weights = true, .parts = true },
    .capability = 90,
    .hopper = true,
    .gpu_dims = { 64, 128 },
    .ring = true,
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&overlapped_ring, &zigzag_ring, argc, argv);
}
#endif

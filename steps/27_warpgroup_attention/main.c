/* Step 27: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost warpgroup_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each tile of queries, from caches */
        .exps = attention_pairs(p),
    };
}

const struct attention_step warpgroup_attention = {
    .name = "27_warpgroup_attention",
    .idea = "several warpgroups share a tile: one multiplies, another exponentiates",
    .exercise = "load_tiles attend.loop",
    .predict = warpgroup_attention_cost,
    .gpu_fp16 = GPU(warpgroup_attention_fp16_gpu),
    .gpu_bf16 = GPU(warpgroup_attention_bf16_gpu),
    .rounding = { .weights = true },
    .capability = 90,
    .hopper = true,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&warpgroup_attention, &wgmma_attention, argc, argv);
}
#endif

/* Step 13: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost fused_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = attention_bytes(p, dtype), /* K and V are read again for each query, from caches */
        .exps = 2 * attention_pairs(p), /* one for the new key, one for the state before it */
    };
}

const struct attention_step fused_attention = {
    .name = "13_fused_attention",
    .idea = "merge with a payload: (m, l, o)",
    .exercise = "attend fused_attention_kernel",
    .predict = fused_attention_cost,
    .cpu_exps = 4, /* two in softmax_merge, and the same two for o; a compiler may see that some are the same */
    .cpu = fused_attention_cpu,
    .gpu = GPU(fused_attention_gpu),
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&fused_attention, &library_attention, argc, argv);
}
#endif

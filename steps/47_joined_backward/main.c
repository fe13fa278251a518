/* Step 47: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost joined_backward_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){ .bytes = 2 * attention_bytes(p, dtype), .exps = attention_pairs(p) };
}

const struct attention_step joined_backward = {
    .name = "47_joined_backward",
    .idea = "each tile of P and dS is made once, for all three gradients",
    .exercise = "weights go_back joined_backward_kernel.loop",
    .predict = joined_backward_cost,
    .backward = { .cpu = joined_backward_cpu, .cpu_fp16 = joined_backward_fp16_cpu,
                  .cpu_bf16 = joined_backward_bf16_cpu, .gpu = GPU(joined_backward_gpu), .any_order = true },
    .workspace = GPU(joined_backward_workspace),
    .shared = GPU(joined_backward_shared),
    .scratch = joined_backward_scratch,
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_backward_main(&joined_backward, &recomputed_backward, argc, argv);
}
#endif

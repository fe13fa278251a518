/* Step 46: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost recomputed_backward_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){ .bytes = 2 * attention_bytes(p, dtype), .exps = 2 * attention_pairs(p) };
}

const struct attention_step recomputed_backward = {
    .name = "46_recomputed_backward",
    .idea = "compute P again, wherever it is needed: what lse was for",
    .exercise = "walk_keys walk_queries queries_kernel.loop",
    .predict = recomputed_backward_cost,
    .backward = { .cpu = recomputed_backward_cpu, .gpu = GPU(recomputed_backward_gpu) },
    .workspace = GPU(recomputed_backward_workspace),
    .shared = GPU(recomputed_backward_shared),
    .scratch = recomputed_backward_scratch,
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    before_on_cpu = &attention_backward; /* the steps between have a GPU version alone */
    return attention_backward_main(&recomputed_backward, &walked_backward, argc, argv);
}
#endif

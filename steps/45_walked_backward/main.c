/* Step 45: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost walked_backward_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        .bytes = 2 * attention_bytes(p, dtype) + 2 * attention_pairs(p) * (double)dtype_bytes(dtype), /* dS: written, read */
        .exps = attention_pairs(p),
    };
}

const struct attention_step walked_backward = {
    .name = "45_walked_backward",
    .idea = "a block of keys walks over their queries, and makes P on the way",
    .exercise = "weigh keys_kernel.loop",
    .predict = walked_backward_cost,
    .backward = { .gpu = GPU(walked_backward_gpu) },
    .workspace = GPU(walked_backward_workspace),
    .shared = GPU(walked_backward_shared),
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_backward_main(&walked_backward, &prepared_backward, argc, argv);
}
#endif

/* Step 44: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost prepared_backward_cost(struct attention p, enum dtype dtype)
{
    double tensors = 2 * attention_bytes(p, dtype); /* Q, K, V, O, dO, and the gradients: 8 */
    return (struct cost){
        /* P and dS: written; dS: read by two products, P by one */
        .bytes = tensors + 5 * attention_pairs(p) * (double)dtype_bytes(dtype),
        .exps = attention_pairs(p),
    };
}

const struct attention_step prepared_backward = {
    .name = "44_prepared_backward",
    .idea = "a query's sum comes from O, before there is any weight",
    .exercise = "prepare_kernel",
    .predict = prepared_backward_cost,
    .backward = { .gpu = GPU(prepared_backward_gpu) },
    .workspace = GPU(prepared_backward_workspace),
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_backward_main(&prepared_backward, &attention_backward, argc, argv);
}
#endif

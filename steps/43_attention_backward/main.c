/* Step 43: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost attention_backward_cost(struct attention p, enum dtype dtype)
{
    double tensors = 2 * attention_bytes(p, dtype); /* Q, K, V, O or dO, and the gradients: 8, of which O is not read */
    return (struct cost){
        /* P and dP: written and read; dS: written, and read by two products; P: read by one */
        .bytes = tensors + 8 * attention_pairs(p) * (double)dtype_bytes(dtype),
        .exps = attention_pairs(p),
    };
}

/* P and dS, of one head at a time. */
static size_t attention_backward_scratch(struct attention p, enum dtype dtype)
{
    return 2 * (size_t)p.seq_q * (size_t)p.seq_k * dtype_bytes(dtype);
}

const struct attention_step attention_backward = {
    .name = "43_attention_backward",
    .idea = "the gradient of attention: five products, and two matrices of L^2 numbers",
    .exercise = "differentiate add_to_keys differentiate_kernel",
    .predict = attention_backward_cost,
    .backward = { .cpu = attention_backward_cpu, .gpu = GPU(attention_backward_gpu) },
    .workspace = GPU(attention_backward_workspace),
    .scratch = attention_backward_scratch,
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_backward_main(&attention_backward, NULL, argc, argv);
}
#endif

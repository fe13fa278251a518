/* Step 11: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost standard_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        /* S: written, read; P: written, read */
        .bytes = attention_bytes(p, dtype) + 4 * attention_pairs(p) * (double)dtype_bytes(dtype),
        .exps = 2 * attention_pairs(p), /* the softmax of step 06, on a GPU */
    };
}

/* S, of one head at a time. */
static size_t standard_attention_scratch(struct attention p, enum dtype dtype)
{
    return (size_t)p.seq_q * (size_t)p.seq_k * dtype_bytes(dtype);
}

const struct attention_step standard_attention = {
    .name = "11_standard_attention",
    .idea = "the definition: three kernels, and L^2 numbers in memory",
    .exercise = "scores output scores_kernel",
    .predict = standard_attention_cost,
    .cpu_exps = 1, /* kept in S, and scaled */
    .cpu = standard_attention_cpu,
    .scratch = standard_attention_scratch,
    .gpu = GPU(standard_attention_gpu),
    .workspace = GPU(standard_attention_workspace),
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&standard_attention, NULL, argc, argv);
}
#endif

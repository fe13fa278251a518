/* Step 52: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost tensor_core_backward_cost(struct attention p, enum dtype dtype)
{
    double rows = (double)p.batch * (double)p.heads * (double)p.seq_q;
    return (struct cost){
        /* O and dO twice, and dQ's sums in fp32: zeros, and read again. In between they are added to in caches */
        .bytes = 2 * attention_bytes(p, dtype) + rows * (double)p.dim * (2 * 4 + (double)dtype_bytes(dtype)),
        .exps = attention_pairs(p),
    };
}

const struct attention_step tensor_core_backward = {
    .name = "52_tensor_core_backward",
    .idea = "scores transposed: what a lane holds of P and dS is an operand where it lies",
    .exercise = "weigh add",
    .predict = tensor_core_backward_cost,
    .backward = { .gpu_fp16 = GPU(tensor_core_backward_fp16_gpu), .gpu_bf16 = GPU(tensor_core_backward_bf16_gpu),
                  .any_order = true },
    .workspace = GPU(tensor_core_backward_workspace),
    .rounding = { .weights = true },
    .capability = 80,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_backward_main(&tensor_core_backward, &matrix_backward, argc, argv);
}
#endif

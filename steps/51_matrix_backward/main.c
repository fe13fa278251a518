/* Step 51: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

static struct cost matrix_backward_cost(struct attention p, enum dtype dtype)
{
    double rows = (double)p.batch * (double)p.heads * (double)p.seq_q;
    return (struct cost){
        /* O and dO twice, and dQ's sums in fp32: zeros, and read again. In between they are added to in caches */
        .bytes = 2 * attention_bytes(p, dtype) + rows * (double)p.dim * (2 * 4 + (double)dtype_bytes(dtype)),
        .exps = attention_pairs(p),
    };
}

const struct attention_step matrix_backward = {
    .name = "51_matrix_backward",
    .idea = "all five products by tensor cores: P and dS go through shared memory, and come back turned",
    .exercise = "hand_over add",
    .predict = matrix_backward_cost,
    .backward = { .gpu_fp16 = GPU(matrix_backward_fp16_gpu), .gpu_bf16 = GPU(matrix_backward_bf16_gpu), .any_order = true },
    .workspace = GPU(matrix_backward_workspace),
    .rounding = { .weights = true },
    .capability = 80,
    .dims = { 64, 128 },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_backward_main(&matrix_backward, &scores_backward, argc, argv);
}
#endif

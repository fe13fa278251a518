/* Step 12: what it claims. The program measures the claim. */
#include "blas.h"
#include "harness.h"
#include "steps.h"

static struct cost library_attention_cost(struct attention p, enum dtype dtype)
{
    return (struct cost){
        /* S: written, read; P: written, read; all of them, also what a mask hides */
        .bytes = attention_bytes(p, dtype) + 4 * (double)(p.batch * p.heads * p.seq_q * p.seq_k) * (double)dtype_bytes(dtype),
        .exps = 2 * attention_pairs(p), /* the softmax of step 06, on a GPU */
    };
}

/* S, of one head at a time. */
static size_t library_attention_scratch(struct attention p, enum dtype dtype)
{
    return (size_t)p.seq_q * (size_t)p.seq_k * dtype_bytes(dtype);
}

const struct attention_step library_attention = {
    .name = "12_library_attention",
    .idea = "the same on the best matrix product there is",
    .exercise = "library_attention_cpu attend",
    .predict = library_attention_cost,
    .cpu_exps = 1, /* kept in S, and scaled */
    .cpu = library_attention_cpu,
    .scratch = library_attention_scratch,
    .ready = blas_available,
    .gpu = GPU(library_attention_gpu),
    .gpu_fp16 = GPU(library_attention_fp16_gpu),
    .gpu_bf16 = GPU(library_attention_bf16_gpu),
    .bf16_capability = 80, /* cuBLAS multiplies bf16 from there on */
    .workspace = GPU(library_attention_workspace),
    .rounding = { .scores = true, .weights = true },
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return attention_main(&library_attention, &standard_attention, argc, argv);
}
#endif

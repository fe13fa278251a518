/* Step 42: what it claims. The program measures the claim. */
#include "harness.h"
#include "steps.h"

const struct softmax_step softmax_backward = {
    .name = "42_softmax_backward",
    .idea = "the gradient of softmax: a row needs one sum",
    .exercise = "row_sum chunk_put gradient",
    .reads = 2, /* y and dy; on longer rows than a cache or the registers of a block hold, twice */
    .writes = 1,
    .backward_cpu = softmax_backward_cpu,
    .backward_cpu_fp16 = softmax_backward_fp16_cpu,
    .backward_cpu_bf16 = softmax_backward_bf16_cpu,
    .cpu_sum = { .lanes = 32, .block = 512, .extra = 3 }, /* the product, and the sum of blocks rounded to float */
    .backward_gpu = GPU(softmax_backward_gpu),
    .gpu_sum = { .lanes = 1024, .extra = 16 }, /* short rows: 32 threads, packs of four */
};

#ifndef CLAIMS_ALONE /* the next step times this one beside its own, and tests run it: they need no main() */
int main(int argc, char **argv)
{
    return softmax_backward_main(&softmax_backward, NULL, argc, argv);
}
#endif

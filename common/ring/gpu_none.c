/* gpu.cu's functions in a build without CUDA: nobody gets further than asking. */
#include "machine.h"
#include "ring/ring.h"

static _Noreturn void none(void)
{
    fatal("this build has no CUDA");
}

const struct ring_carrier *ring_nccl;

void ring_gpu_rank(struct ring *r, ring_body *body) { (void)r, (void)body; none(); }
void ring_gpu_start(struct ring *r, int from) { (void)r, (void)from; none(); }
void ring_gpu_finish(struct ring *r, int from) { (void)r, (void)from; none(); }
bool ring_gpus_reach_each_other(int ranks) { (void)ranks; none(); }

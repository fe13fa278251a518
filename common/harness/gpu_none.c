/* gpu.cu's functions in a build without CUDA: there is no device, and nobody gets further than asking. */
#include "harness.h"

static _Noreturn void none(void)
{
    fatal("this build has no CUDA");
}

int gpu_count(void) { return 0; }

const char *gpu_missing(void)
{
    return "built without CUDA; install the CUDA Toolkit, or set CUDA_HOME, and type make again";
}

const char *gpu_name(void) { none(); }
int gpu_capability(void) { none(); }
struct gpu_build gpu_built_for(void) { none(); }
size_t gpu_shared_bytes(void) { none(); }
int gpu_sms(void) { none(); }
int64_t gpu_l2_bytes(void) { none(); }
size_t gpu_memory_available(void) { none(); }
void *gpu_allocate(size_t bytes) { (void)bytes; none(); }
void gpu_release(void *p) { (void)p; none(); }
void gpu_fill(void *p, int byte, size_t bytes) { (void)p, (void)byte, (void)bytes; none(); }
void gpu_upload(void *device, const void *host, size_t bytes) { (void)device, (void)host, (void)bytes; none(); }
void gpu_download(void *host, const void *device, size_t bytes) { (void)host, (void)device, (void)bytes; none(); }
void gpu_flush(void) { none(); }
const char *gpu_error(void) { none(); }
void gpu_finish(const char *what) { (void)what; none(); }

void reference_attention_gpu(struct answers *a, const void *Q, const void *K, const void *V, struct attention_rounding how)
{
    (void)a, (void)Q, (void)K, (void)V, (void)how;
    none();
}

double reference_gpu_work(void) { none(); }
double reference_gpu_bytes(struct attention p, enum dtype dtype) { (void)p, (void)dtype; none(); }
double run_once_gpu(const struct work *work) { (void)work; none(); }

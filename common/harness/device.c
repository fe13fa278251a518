/* The devices: a CPU and a GPU, each a struct of functions. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "harness.h"

#define HUGE_PAGE (2u << 20)    /* bytes; large pages make copies 10-20 % faster */
#define FILL_CHUNK (8u << 20)   /* bytes a thread fills at a time: all threads touch the pages first */

static const char *never_missing(void)
{
    return NULL;
}

static size_t cpu_memory(void)
{
    return cpu_memory_available("");
}

static void *cpu_allocate(size_t bytes)
{
    size_t whole = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *p = bytes <= whole ? aligned_alloc(HUGE_PAGE, whole) : NULL; /* the sum may overflow */
#ifdef MADV_HUGEPAGE
    if (p)
        madvise(p, whole, MADV_HUGEPAGE);
#endif
    return p;
}

static void cpu_fill(void *p, int byte, size_t bytes)
{
#pragma omp parallel for
    for (size_t at = 0; at < bytes; at += FILL_CHUNK)
        memset((char *)p + at, byte, bytes - at < FILL_CHUNK ? bytes - at : FILL_CHUNK);
}

static void cpu_copy(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

static void cpu_finish(const char *what)
{
    (void)what; /* a function that has returned is finished */
}

const struct device cpu_device = {
    .name = "cpu", .backend = "cpu", .model = cpu_name, .threads = cpu_threads, .missing = never_missing,
    .memory = cpu_memory, .allocate = cpu_allocate, .release = free, .fill = cpu_fill, .upload = cpu_copy, .download = cpu_copy,
    .finish = cpu_finish, .run_once = run_once_cpu, .flush_bytes = cpu_flush_bytes,
};

static int no_threads(void)
{
    return 0;
}

static const char *missing(void)
{
    return gpu_count() == 0 ? gpu_missing() : NULL;
}

static int64_t gpu_flush_bytes(void)
{
    return GPU_FLUSH_BYTES;
}

const struct device gpu_device = {
    .name = "gpu", .backend = "cuda", .apart = true, .model = gpu_name, .threads = no_threads, .missing = missing,
    .memory = gpu_memory_available, .allocate = gpu_allocate, .release = gpu_release, .fill = gpu_fill, .upload = gpu_upload,
    .download = gpu_download, .finish = gpu_finish, .run_once = run_once_gpu, .flush_bytes = gpu_flush_bytes,
};

/* Buffers between guard bands, on the CPU and on the GPU. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common.h"

#define POISON 0xFF               /* every byte; as fp16, bf16, fp32 and fp64 this is a NaN */
#define HUGE_PAGE (2u << 20)      /* bytes; large pages make copies 10-20 % faster */
#define POISON_CHUNK (8u << 20)   /* bytes a thread fills at a time: all threads touch the pages first */

/* The number after "name:" in a file such as /proc/meminfo, or the only one in the file where name is ""; -1: not there. */
static long long number_in(const char *path, const char *name)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    char line[256];
    long long value = -1;
    while (value < 0 && fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0 && sscanf(line + strlen(name), "%lld", &value) != 1)
            value = -1;
    fclose(file);
    return value;
}

static size_t cpu_memory_available(void)
{
    long long kib = number_in("/proc/meminfo", "MemAvailable:");
    long long bytes = kib >= 0 ? kib * 1024 : (long long)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    long long limit = number_in("/sys/fs/cgroup/memory.max", ""), used = number_in("/sys/fs/cgroup/memory.current", "");
    if (limit >= 0 && used >= 0 && limit - used < bytes) /* in a container */
        bytes = limit > used ? limit - used : 0;
    return (size_t)bytes;
}

size_t memory_available(bool gpu)
{
    return gpu ? gpu_memory_available() : cpu_memory_available();
}

struct buffer buffer_new(size_t bytes, bool gpu)
{
    size_t whole = (bytes + 2 * GUARD_BYTES + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    size_t available = memory_available(gpu);
    void *base = NULL;
    if (whole <= available)
        base = gpu ? gpu_allocate(whole) : aligned_alloc(HUGE_PAGE, whole);
    if (!base)
        fatal("not enough %s memory: %.2f GiB needed for one tensor, %.2f GiB available; try a smaller problem",
              gpu ? "GPU" : "CPU", (double)whole / (1 << 30), (double)available / (1 << 30));
#ifdef MADV_HUGEPAGE
    if (!gpu)
        madvise(base, whole, MADV_HUGEPAGE);
#endif
    struct buffer b = { (char *)base + GUARD_BYTES, bytes, gpu };
    buffer_poison(&b);
    return b;
}

void buffer_free(struct buffer *b)
{
    if (b->data && b->gpu)
        gpu_release((char *)b->data - GUARD_BYTES);
    else if (b->data)
        free((char *)b->data - GUARD_BYTES);
    b->data = NULL;
}

void buffer_poison(struct buffer *b)
{
    char *begin = (char *)b->data - GUARD_BYTES;
    size_t whole = b->bytes + 2 * GUARD_BYTES;
    if (b->gpu) {
        gpu_fill(begin, POISON, whole);
        return;
    }
#pragma omp parallel for
    for (size_t at = 0; at < whole; at += POISON_CHUNK)
        memset(begin + at, POISON, whole - at < POISON_CHUNK ? whole - at : POISON_CHUNK);
}

void *scratch(size_t bytes)
{
    static struct buffer kept;
    if (kept.bytes < bytes) {
        buffer_free(&kept);
        kept = buffer_new(bytes, false);
    }
    return kept.data;
}

bool buffer_guards_intact(const struct buffer *b)
{
    unsigned char band[2][GUARD_BYTES];
    const char *before = (const char *)b->data - GUARD_BYTES, *after = (const char *)b->data + b->bytes;
    if (b->gpu) {
        gpu_download(band[0], before, GUARD_BYTES);
        gpu_download(band[1], after, GUARD_BYTES);
    } else {
        memcpy(band[0], before, GUARD_BYTES);
        memcpy(band[1], after, GUARD_BYTES);
    }
    for (size_t i = 0; i < sizeof band; i++)
        if (((unsigned char *)band)[i] != POISON)
            return false;
    return true;
}

/* How much memory there is, and buffers between guard bands, on the CPU and on the GPU. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "harness.h"

#define POISON 0xFF               /* every byte; as fp16, bf16, fp32 and fp64 this is a NaN */
#ifndef PATH_MAX
#define PATH_MAX 4096
#endif

/* ---- how much there is */

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

/* What a control group may still take, besides what it holds of files and could drop; without a limit a great deal. */
static long long left_in_group(const char *folder, bool v2)
{
    char path[3][PATH_MAX];
    const char *const names[2][3] = { { "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat" },
                                      { "memory.max", "memory.current", "memory.stat" } };
    for (int i = 0; i < 3; i++)
        if (snprintf(path[i], sizeof path[i], "%s/%s", folder, names[v2][i]) >= (int)sizeof path[i])
            return LLONG_MAX;
    long long limit = number_in(path[0], ""), used = number_in(path[1], "");
    long long files = number_in(path[2], v2 ? "inactive_file " : "total_inactive_file ");
    if (limit < 0 || used < 0)
        return LLONG_MAX;
    used -= files > 0 ? files : 0;
    return limit > used ? limit - used : 0;
}

/* The same for the group of this process and all above it: each may
   have a limit. They lie under the path in /proc/self/cgroup. */
static long long left_in_groups(const char *root)
{
    char name[PATH_MAX], line[PATH_MAX], folder[2 * PATH_MAX];
    snprintf(name, sizeof name, "%s/proc/self/cgroup", root);
    FILE *file = fopen(name, "r");
    long long least = LLONG_MAX;
    while (file && fgets(line, sizeof line, file)) { /* "0::/path" in version 2, "4:memory:/path" in version 1 */
        char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        bool v2 = controllers[1] == '\0';
        if (!v2 && !strstr(controllers, "memory"))
            continue;
        for (char *end = path + strlen(path); end; end = strrchr(path, '/')) { /* up to the root, whose path is "" */
            *end = '\0';
            snprintf(folder, sizeof folder, "%s/sys/fs/cgroup%s%s", root, v2 ? "" : "/memory", path);
            long long left = left_in_group(folder, v2);
            least = left < least ? left : least;
        }
    }
    if (file)
        fclose(file);
    return least;
}

/* What `ulimit -v` and `ulimit -d` leave. */
static long long left_by_limits(void)
{
    const struct { int resource; const char *used; } all[] = { { RLIMIT_AS, "VmSize:" }, { RLIMIT_DATA, "VmData:" } };
    long long least = LLONG_MAX;
    for (int i = 0; i < 2; i++) {
        struct rlimit limit;
        long long kib = number_in("/proc/self/status", all[i].used);
        if (kib < 0 || getrlimit(all[i].resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
            continue;
        long long left = (long long)limit.rlim_cur - kib * 1024;
        least = left < least ? left > 0 ? left : 0 : least;
    }
    return least;
}

size_t cpu_memory_available(const char *root)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    long long kib = number_in(path, "MemAvailable:");
    long long bytes = kib >= 0 ? kib * 1024 : (long long)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    const long long other[] = { left_in_groups(root), left_by_limits() };
    for (int i = 0; i < 2; i++)
        bytes = other[i] < bytes ? other[i] : bytes;
    return (size_t)bytes;
}

static _Noreturn void too_little(double bytes, const char *what, const struct device *device)
{
    fatal("not enough %s memory: %.2f GiB needed%s, %.2f GiB available; try a smaller problem", device->apart ? "GPU" : "CPU",
          bytes / (1 << 30), what, (double)device->memory() / (1 << 30));
}

void memory_require(double bytes, const struct device *device)
{
    if (bytes > (double)device->memory())
        too_little(bytes, "", device);
}

/* ---- buffers */

/* With GUARD_PAGES in the environment, a CPU's buffers end where a page begins that nobody may read. */
static bool has_guard_page(const struct device *device)
{
    const char *wanted = getenv("GUARD_PAGES");
    return device == &cpu_device && wanted && *wanted;
}

/* Memory whose last page nobody may touch, apart from what malloc has:
   LeakSanitizer reads all of that, such a page, too. NULL without. */
static void *map_locked(size_t bytes, size_t page)
{
    char *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + bytes - page, page, PROT_NONE) != 0)
        return NULL;
    return base;
}

struct buffer buffer_new(size_t bytes, const struct device *device)
{
    struct buffer b = { .bytes = bytes, .device = device, .behind = has_guard_page(device) ? 0 : GUARD_BYTES };
    size_t page = b.behind ? 0 : (size_t)sysconf(_SC_PAGESIZE);
    size_t whole = bytes + GUARD_BYTES + b.behind + 2 * page;
    whole -= page ? whole % page : 0;
    if (bytes < whole && whole <= device->memory()) /* the first is so unless the sum overflows */
        b.base = page ? map_locked(whole, page) : device->allocate(whole);
    if (!b.base)
        too_little((double)bytes, " for one tensor", device);
    b.data = (char *)b.base + GUARD_BYTES;
    if (page) {
        b.locked = (char *)b.base + whole - page;
        b.data = (char *)b.locked - bytes;
    }
    buffer_poison(&b);
    return b;
}

void buffer_free(struct buffer *b)
{
    if (b->locked)
        munmap(b->base, (size_t)((char *)b->locked - (char *)b->base) + (size_t)sysconf(_SC_PAGESIZE));
    else if (b->base)
        b->device->release(b->base);
    *b = (struct buffer){ 0 };
}

void buffer_poison(struct buffer *b)
{
    b->device->fill((char *)b->data - GUARD_BYTES, POISON, GUARD_BYTES + b->bytes + b->behind);
}

void *scratch(size_t bytes)
{
    static struct buffer kept;
    if (kept.bytes < bytes) {
        buffer_free(&kept);
        kept = buffer_new(bytes, &cpu_device);
    }
    return kept.data;
}

bool buffer_guards_intact(const struct buffer *b)
{
    unsigned char band[2 * GUARD_BYTES];
    b->device->download(band, (const char *)b->data - GUARD_BYTES, GUARD_BYTES);
    b->device->download(band + GUARD_BYTES, (const char *)b->data + b->bytes, b->behind);
    for (size_t i = 0; i < GUARD_BYTES + b->behind; i++)
        if (band[i] != POISON)
            return false;
    return true;
}

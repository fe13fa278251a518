/* What this runs on. (What concerns the GPU is in gpu.cu.) */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#include "harness.h"

/* Copies the value of "key : value" from /proc/cpuinfo; false when there is none. */
static bool cpuinfo(const char *key, char *value, size_t size)
{
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[256];
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, key, strlen(key)) || !colon)
            continue;
        snprintf(value, size, "%s", colon + 1 + strspn(colon + 1, " \t"));
        value[strcspn(value, "\n")] = '\0';
        for (char *c = value; *c; c++) /* a tab would end a column of the tables */
            *c = (unsigned char)*c < ' ' ? ' ' : *c;
        found = true;
    }
    if (file)
        fclose(file);
    return found;
}

const char *cpu_name(void)
{
    static char name[128];
    if (name[0])
        return name;
#ifdef __APPLE__
    size_t size = sizeof name;
    if (sysctlbyname("machdep.cpu.brand_string", name, &size, NULL, 0) == 0)
        return name;
#endif
    if (!cpuinfo("model name", name, sizeof name) && !cpuinfo("Hardware", name, sizeof name))
        snprintf(name, sizeof name, "unknown CPU");
    return name;
}

#ifndef _OPENMP
static int parts_wanted = 1;
#endif

int cpu_threads(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return parts_wanted;
#endif
}

void cpu_set_parts(int parts)
{
#ifdef _OPENMP
    omp_set_num_threads(parts);
#else
    parts_wanted = parts;
#endif
}

void cpu_set_threads(int threads)
{
#ifndef _OPENMP
    if (threads != 1)
        usage_error("--threads %d: this build has no OpenMP; 1 is allowed", threads);
#endif
    cpu_set_parts(threads);
}

int64_t cpu_cache_bytes(int level)
{
#if defined _SC_LEVEL3_CACHE_SIZE
    int name = level == 1 ? _SC_LEVEL1_DCACHE_SIZE : level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE;
    long bytes = sysconf(name);
    return bytes > 0 ? bytes : 0;
#elif defined __APPLE__
    const char *name = level == 1 ? "hw.perflevel0.l1dcachesize" : level == 2 ? "hw.perflevel0.l2cachesize" : "";
    int64_t bytes = 0;
    size_t size = sizeof bytes;
    return sysctlbyname(name, &bytes, &size, NULL, 0) == 0 ? bytes : 0;
#else
    (void)level;
    return 0;
#endif
}

/*
 * What a step may ask of the machine that it runs on, and of the program around it. The harness defines it.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define _Noreturn [[noreturn]]
extern "C" {
#endif

int cpu_threads(void);          /* that OpenMP uses now */
int64_t cpu_cache_bytes(int level); /* 1, 2, 3; 0 where there is none or it cannot be told */
int gpu_sms(void);              /* streaming multiprocessors of the GPU */
void *scratch(size_t bytes);    /* for intermediate results on a CPU: the same memory call after call, grown as needed */
/* Print "program: message" in one line on stderr, and exit with status 1. */
_Noreturn void fatal(const char *format, ...) __attribute__((format(printf, 1, 2)));

#ifdef __cplusplus
}
#endif
#endif

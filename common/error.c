/* One clear line on stderr, and the exit status that belongs to it. */
#define _GNU_SOURCE /* program_invocation_short_name */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "common.h"

static _Noreturn void die(int status, const char *format, va_list args)
{
    fflush(stdout);
#ifdef __GLIBC__
    fprintf(stderr, "%s: ", program_invocation_short_name);
#endif
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    exit(status);
}

void usage_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    die(EXIT_USAGE, format, args);
}

void fatal(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    die(EXIT_FAILED, format, args);
}

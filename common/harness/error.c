/* One clear line on stderr, and the exit status that belongs to it. */
#define _GNU_SOURCE /* program_invocation_short_name */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

#define LONGEST 2000 /* bytes of a message; what is longer is cut */

/* The bytes of the UTF-8 character that starts here and may be shown; 0: none does. Those of U+0080 to U+009F steer terminals. */
static int shown_as_it_is(const unsigned char *at)
{
    int bytes = *at < 0x80 ? 1 : *at < 0xc2 ? 0 : *at < 0xe0 ? 2 : *at < 0xf0 ? 3 : *at < 0xf5 ? 4 : 0;
    for (int i = 1; i < bytes; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    bool control = *at < ' ' || *at == 0x7f || (*at == 0xc2 && at[1] < 0xa0);
    return control ? 0 : bytes;
}

void printable(char *out, size_t size, const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    size_t n = 0;
    for (int bytes; *at && n + 5 < size; at += bytes ? bytes : 1) {
        bytes = shown_as_it_is(at);
        if (bytes)
            memcpy(out + n, at, (size_t)bytes), n += (size_t)bytes;
        else
            n += (size_t)sprintf(out + n, *at == '\n' ? "\\n" : "\\x%02x", *at);
    }
    out[n] = '\0';
}

static _Noreturn void die(int status, const char *format, va_list args)
{
    char message[LONGEST], line[4 * LONGEST + 6];
    int start = 0;
#ifdef __GLIBC__
    start = snprintf(message, sizeof message / 2, "%s: ", program_invocation_short_name);
    start = start < LONGEST / 2 ? start : LONGEST / 2 - 1;
#endif
    int length = start + vsnprintf(message + start, sizeof message - (size_t)start, format, args);
    printable(line, sizeof line, message);
    fflush(stdout);
    fprintf(stderr, "%s%s\n", line, length >= LONGEST ? "..." : "");
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

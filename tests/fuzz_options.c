/*
 * A libFuzzer harness for the command line: the input is a program's arguments, a line each. Either all options come out in
 * range, or one line says what is wrong. usage_error and fatal are defined here, in the place of error.c's, so that refusing
 * the arguments does not end the fuzzer. `make fuzz` runs it for a minute.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "harness.h"

#define MAX_ARGS 30
#define MAX_INPUT 4096

static jmp_buf refused;

static _Noreturn void refuse(const char *format, va_list args)
{
    static char line[2 * MAX_INPUT];
    int length = vsnprintf(line, sizeof line, format, args);
    REQUIRE(length > 0 && !strchr(line, '\n'));
    longjmp(refused, 1);
}

void usage_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    refuse(format, args);
}

void fatal(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    refuse(format, args);
}

const char *results_path(void)
{
    return "build/results.tsv";
}

const char *ceilings_path(void)
{
    return "build/ceilings.tsv";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char text[MAX_INPUT + 1];
    char *argv[MAX_ARGS + 2] = { "program" };
    int argc = 1;
    if (size > MAX_INPUT)
        return 0;
    memcpy(text, data, size);
    text[size] = 0;
    for (char *arg = strtok(text, "\n"); arg && argc <= MAX_ARGS; arg = strtok(NULL, "\n")) {
        if (strncmp(arg, "--h", 3) == 0) /* --help ends the program, as it should */
            return 0;
        argv[argc++] = arg;
    }
    if (setjmp(refused))
        return 0;
    enum step_kind kind = size % 3;
    bool is_attention = kind == ATTENTION_STEP;
    struct options o = options_parse(argc, argv, "", kind, NULL);
    REQUIRE(o.cpu || o.gpu);
    REQUIRE(o.dtype == FP32 || o.dtype == FP16 || o.dtype == BF16);
    REQUIRE(o.reps >= 0 && o.threads >= 0 && o.budget > 0);
    REQUIRE(o.traced >= 0 && o.traced <= MAX_TRACED);
    REQUIRE(input_is_family(o.input, is_attention) || strcmp(o.input, "file") == 0);
    const struct attention *p = &o.attention;
    if (is_attention)
        REQUIRE(p->batch > 0 && p->heads > 0 && p->kv_heads > 0 && p->heads % p->kv_heads == 0 && p->seq_q > 0 && p->seq_k > 0 &&
                p->dim > 0 && isfinite(p->scale));
    else if (kind == SOFTMAX_STEP)
        REQUIRE(o.rows > 0 && o.cols > 0 && o.rows <= INT64_MAX / 8 / o.cols);
    return 0;
}

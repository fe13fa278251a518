/*
 * A step's main.c is its description and one call of softmax_main. Here the call is renamed, so that it hands the description
 * over instead of running it: nothing is written down twice, and no test can hold a step to other claims than its program.
 */
#include "all_steps.h"

#include <string.h>

#include "common.h"
#include "steps.h"

static const struct softmax_step *described;

static int describe(const struct softmax_step *step, int argc, char **argv)
{
    (void)argc, (void)argv;
    described = step;
    return 0;
}

#define softmax_main describe

/* A main() of another name, in this file alone. */
typedef int main_fn(int argc, char **argv);

static main_fn naive, safe, online, parallel, resident, split;

#define main naive
#include "../steps/01_naive_softmax/main.c"
#undef main
#define main safe
#include "../steps/02_safe_softmax/main.c"
#undef main
#define main online
#include "../steps/03_online_softmax/main.c"
#undef main
#define main parallel
#include "../steps/04_parallel_softmax/main.c"
#undef main
#define main resident
#include "../steps/05_resident_softmax/main.c"
#undef main
#define main split
#include "../steps/06_split_softmax/main.c"
#undef main

static main_fn *const mains[] = { naive, safe, online, parallel, resident, split };

enum { STEPS = sizeof mains / sizeof mains[0], DTYPES = 3 };

const struct softmax_step *step_at(int number)
{
    if (number < 0 || number >= STEPS)
        return NULL;
    mains[number](0, NULL);
    return described;
}

const struct softmax_step *step_named(const char *name)
{
    for (int i = 0; i < STEPS; i++)
        if (strcmp(step_at(i)->name, name) == 0)
            return step_at(i);
    return NULL;
}

bool subject_exists(const struct subject *s)
{
    switch (s->dtype) {
    case FP16: return s->gpu ? s->step->gpu_fp16 != NULL : s->step->cpu_fp16 != NULL;
    case BF16: return s->gpu ? s->step->gpu_bf16 != NULL : s->step->cpu_bf16 != NULL;
    default: return s->gpu ? s->step->gpu != NULL : s->step->cpu != NULL;
    }
}

bool subject_at(struct subject *s, int index, bool gpu)
{
    static const enum dtype dtypes[DTYPES] = { FP32, FP16, BF16 };
    for (int i = 0; i < STEPS * DTYPES; i++) {
        *s = (struct subject){ step_at(i / DTYPES), dtypes[i % DTYPES], gpu };
        if (subject_exists(s) && index-- == 0)
            return true;
    }
    return false;
}

int subject_count(bool gpu)
{
    struct subject s;
    int count = 0;
    while (subject_at(&s, count, gpu))
        count++;
    return count;
}

const char *subject_name(const struct subject *s)
{
    static char name[96];
    snprintf(name, sizeof name, "%s %s on the %s", s->step->name, dtype_name(s->dtype), s->gpu ? "GPU" : "CPU");
    return name;
}

struct rounding subject_rounding(const struct subject *s)
{
    struct rounding how = s->gpu ? s->step->gpu_sum : s->step->cpu_sum;
    if (s->dtype == FP16)
        how.unit = s->step->fp16_unit;
    return how;
}

void subject_run(const struct subject *s, void *y, const void *x, int64_t rows, int64_t cols, void *workspace)
{
    const struct softmax_step *step = s->step;
    if (s->gpu)
        switch (s->dtype) {
        case FP16: step->gpu_fp16(y, x, rows, cols, workspace, NULL); break;
        case BF16: step->gpu_bf16(y, x, rows, cols, workspace, NULL); break;
        default: step->gpu(y, x, rows, cols, workspace, NULL); break;
        }
    else
        switch (s->dtype) {
        case FP16: step->cpu_fp16(y, x, rows, cols); break;
        case BF16: step->cpu_bf16(y, x, rows, cols); break;
        default: step->cpu(y, x, rows, cols); break;
        }
}

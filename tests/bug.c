/*
 * The gallery of broken kernels. `bug` lists them; `bug 3` shows the third: its source, every check's verdict on it, and
 * whether the check that was made for it caught it. Runs in the repository's root, where the sources are.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention_checks.h"
#include "mutants/attention.h"
#include "mutants/mutants.h"

static void list(void)
{
    printf("Broken kernels, each a mistake that somebody made. `make bug-N` shows number N and what catches it.\n\nSoftmax:\n");
    for (int i = 0; i < mutant_count; i++)
        printf("  %2d  %-32s caught by \"%s\"%s\n", i + 1, mutants[i].step.name, mutants[i].caught_by,
               mutants[i].gpu ? ", on a GPU" : "");
    printf("\nAttention:\n");
    for (int i = 0; i < attention_mutant_count; i++)
        printf("  %2d  %-32s caught by \"%s\"\n", mutant_count + i + 1, attention_mutants[i].step.name,
               attention_mutants[i].caught_by);
}

static void show_source(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file)
        fatal("%s: it cannot be opened; run this in the repository's root", path);
    printf("%s\n\n", path);
    for (int c; (c = getc(file)) != EOF;)
        putchar(c);
    fclose(file);
}

static void print_error(const struct outcome *o)
{
    if (isnan(o->error))
        printf(isnan(o->tolerance) ? "not what must hold" : "NaN where it is wrong");
    else if (isinf(o->error))
        printf("an infinite error");
    else
        printf("relative error %.2g, allowed there %.2g", o->error, o->tolerance);
}

/* One check's verdict, in a line. `made_for_it` is replaced if this is the check that was made for the mutant. */
static void print_verdict(const char *name, const char *caught_by, struct outcome o, struct outcome *made_for_it)
{
    bool is_its_own = strcmp(name, caught_by) == 0;
    printf("  %s %-17s %-9s ", is_its_own ? "->" : "  ", name, o.pass ? "passes" : "CAUGHT");
    print_error(&o);
    printf("\n");
    if (is_its_own)
        *made_for_it = o;
}

/* Returns the exit status: a mutant that is not caught is a failure. */
static int conclude(const char *caught_by, const char *about, const struct outcome *made_for_it)
{
    if (made_for_it->pass)
        printf("\n\"%s\" should have caught it, and did not.\n", caught_by);
    else
        printf("\n\"%s\" (%s) catches it:\n  %s\n", caught_by, about, made_for_it->what);
    return made_for_it->pass ? EXIT_FAILED : 0;
}

static int judge(const struct mutant *m)
{
    const struct softmax_step *correct = step_named(m->mimics);
    struct softmax_step step = m->step;
    step.cpu_sum = correct->cpu_sum;
    step.gpu_sum = correct->gpu_sum;
    struct subject s = { &step, m->dtype, m->gpu };
    struct outcome made_for_it = { .pass = true };

    printf("\nWithout its mistake it would be %s. Held to that step's claims:\n\n", m->mimics);
    for (int i = 0; i < softmax_check_count; i++)
        print_verdict(softmax_checks[i].name, m->caught_by, check_run(&softmax_checks[i], &s), &made_for_it);
    return conclude(m->caught_by, check_named(m->caught_by)->about, &made_for_it);
}

static int judge_attention(const struct attention_mutant *m)
{
    struct attention_subject s = { &m->step, FP32, false };
    struct outcome made_for_it = { .pass = true };

    printf("\nWithout its mistake it would be %s. Held to that step's claims:\n\n", m->mimics);
    for (int i = 0; i < attention_check_count; i++)
        if (!attention_checks[i].gpu_only)
            print_verdict(attention_checks[i].name, m->caught_by, attention_check_run(&attention_checks[i], &s), &made_for_it);
    return conclude(m->caught_by, attention_check_named(m->caught_by)->about, &made_for_it);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        list();
        return 0;
    }
    char *end;
    long number = strtol(argv[1], &end, 10);
    if (argc > 2 || end == argv[1] || *end || number < 1 || number > mutant_count + attention_mutant_count)
        usage_error("'%s': a number from 1 to %d is allowed; without one, all are listed", argv[argc - 1],
                    mutant_count + attention_mutant_count);
    if (number > mutant_count) {
        const struct attention_mutant *m = &attention_mutants[number - mutant_count - 1];
        show_source(m->file);
        return judge_attention(m);
    }
    const struct mutant *m = &mutants[number - 1];
    show_source(m->file);
    if (m->gpu && gpu_count() == 0) {
        printf("\nskipped: it runs on a GPU: %s\n", gpu_missing());
        return 0;
    }
    return judge(m);
}

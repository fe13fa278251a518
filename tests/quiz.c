/*
 * The gallery of broken kernels as a quiz, `make quiz`: a kernel without its name and its comments; which inputs show that it is
 * wrong? QUIZ=K in the environment chooses number K, of an order of their own; INPUT=FAMILY answers, and without it a terminal is
 * asked; GIVE=1 gives up. Runs in the repository's root, where the sources are. Two words are for tests of the quiz itself: `quiz
--list` says of each kernel which family shows it, `quiz --check` also that none shows the step that it mimics.
 *
 * Exit status: 0, and 1 for an answer that does not show it.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mutants/attention.h"
#include "mutants/mutants.h"
#include "program.h"
#include "steps.h"

#define MAX_KERNELS 128
#define MAX_SOURCE 8192

/* A kernel of the quiz: a mutant of the gallery that runs on a CPU. */
struct kernel {
    int bug;                 /* its number there */
    const char *name, *file;
    const char *mimics;      /* the step that it would be without its mistake, and whose claims it is held to */
    const void *right;
    bool attention;
    enum dtype dtype;
    union {
        struct softmax_step softmax;
        struct attention_step attention;
    } step;
};

static struct kernel kernels[MAX_KERNELS];
static int count;

static const void *step_named(const char *name)
{
    static const struct softmax_step *const softmaxes[] = { &safe_softmax, &online_softmax, &block_softmax, &narrow_softmax };
    static const struct attention_step *const attentions[] = { &standard_attention, &fused_attention, &register_tiled_attention };
    for (int i = 0; i < 4; i++)
        if (strcmp(softmaxes[i]->name, name) == 0)
            return softmaxes[i];
    for (int i = 0; i < 3; i++)
        if (strcmp(attentions[i]->name, name) == 0)
            return attentions[i];
    fatal("quiz: %s is missing in its list of steps", name);
}

/* Whether a kernel has its number in the gallery. */
static bool numbers_are_known(void)
{
    for (int i = 0; i < count; i++)
        if (kernels[i].bug == i + 1)
            return true;
    return false;
}

static void shuffle(uint64_t seed)
{
    for (int i = count - 1; i > 0; i--) {
        int j = (int)(random_bits(seed, (uint64_t)i) % (uint64_t)(i + 1));
        struct kernel other = kernels[i];
        kernels[i] = kernels[j], kernels[j] = other;
    }
}

/* All kernels, each held to the claims of the step that it mimics, shuffled: the same way each time. */
static void gather(void)
{
    for (int i = 0; i < mutant_count; i++) {
        const struct mutant *m = &mutants[i];
        const struct softmax_step *right = m->gpu ? NULL : step_named(m->mimics);
        if (m->gpu)
            continue;
        struct kernel *k = &kernels[count++];
        *k = (struct kernel){ i + 1, m->step.name, m->file, m->mimics, right, false, m->dtype, { .softmax = m->step } };
        k->step.softmax.cpu_sum = right->cpu_sum, k->step.softmax.fp16_unit = right->fp16_unit;
    }
    for (int i = 0; i < attention_mutant_count; i++) {
        const struct attention_mutant *m = &attention_mutants[i];
        kernels[count++] = (struct kernel){ mutant_count + i + 1, m->step.name, m->file, m->mimics, step_named(m->mimics), true,
                                            FP32, { .attention = m->step } };
    }
    for (uint64_t seed = 1; numbers_are_known(); seed++)
        shuffle(seed);
}

/* ---- the source, without what gives it away */

static char *source_of(const struct kernel *k)
{
    static char text[MAX_SOURCE];
    FILE *file = fopen(k->file, "r");
    if (!file)
        fatal("%s: it cannot be opened; run this in the repository's root", k->file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

/* Its name, wherever it stands, is `softmax` or `attention`; comments are left out, and lines that held nothing else. */
static void show_code(const struct kernel *k)
{
    const char *at = strstr(source_of(k), "#include");
    size_t length = strlen(k->name);
    bool begun = false;
    while (*at) {
        char line[512] = "";
        size_t n = 0;
        bool comment = false, text = false;
        for (; *at && *at != '\n'; at++) {
            if (at[0] == '/' && at[1] == '*') {
                at = strstr(at, "*/") + 1;
                comment = true;
                continue;
            }
            if (strncmp(at, k->name, length) == 0) {
                n += (size_t)sprintf(line + n, "%s", k->attention ? "attention" : "softmax");
                at += length - 1;
                continue;
            }
            text |= !isspace(*at);
            line[n++] = *at;
        }
        while (n > 0 && line[n - 1] == ' ')
            n--;
        line[n] = '\0';
        text &= !strstr(line, "#include");
        begun |= text;
        if (begun && (text || !comment))
            printf("%s%s\n", n > 0 ? "  " : "", line);
        at += *at == '\n';
    }
}

/* What the mistake is: the source's first comment, without its frame. */
static void tell(const struct kernel *k)
{
    char *line = strstr(source_of(k), "Mutant: "), *end = strstr(line, "\n */");
    *end = '\0';
    printf("It is %s: ", k->name);
    for (line = strtok(line + strlen("Mutant: "), "\n"); line; line = strtok(NULL, "\n"))
        printf("%s\n", line + strspn(line, " *"));
    printf("make bug-%d shows it, and every check's verdict.\n", k->bug);
}

/* ---- what shows it */

/*
 * The index-th problem with numbers of this family: the shapes of the small problems that every run of a step judges, and one
 * like its default. false: there are no more.
 */
static bool problem_at(const struct kernel *k, const struct kind *kind, const char *family, int index, struct options *o)
{
    *o = (struct options){ .is_attention = k->attention, .dtype = k->dtype, .attention.dim = DEFAULT_DIM };
    if (strcmp(family, "real") == 0) { /* it has its own shape */
        o->rows = 1024, o->cols = k->attention ? 0 : input_real_cols();
        o->input = family;
        if (k->attention)
            input_sizes(o);
        o->attention.scale = default_scale(o->attention.dim);
        return index == 0;
    }
    if (index == 0 && k->attention)
        o->attention = (struct attention){ 1, 1, 1, 256, 256, DEFAULT_DIM, false, default_scale(DEFAULT_DIM) };
    else if (index == 0)
        o->rows = 64, o->cols = DEFAULT_COLS;
    else if (!kind->small(k->right, o, index - 1))
        return false;
    o->input = family, o->seed = 1;
    return true;
}

static const char *shape_of(const struct options *o)
{
    static char text[160];
    const struct attention *p = &o->attention;
    if (!o->is_attention)
        snprintf(text, sizeof text, "%lld x %lld", (long long)o->rows, (long long)o->cols);
    else
        snprintf(text, sizeof text, "%lld x %lld heads (%lld of keys), %lld queries, %lld keys, dim %lld%s", (long long)p->batch,
                 (long long)p->heads, (long long)p->kv_heads, (long long)p->seq_q, (long long)p->seq_k, (long long)p->dim,
                 p->causal ? ", causal" : "");
    return text;
}

/* Whether a problem with numbers of this family shows that `step` is wrong; then which, and where, goes to what: (size). */
static bool shows(const struct kernel *k, const void *step, const char *family, char *what, size_t size)
{
    const struct kind *kind = k->attention ? &attention_kind : &softmax_kind;
    struct options o;
    bool wrong = false;
    for (int i = 0; !wrong && problem_at(k, kind, family, i, &o); i++) {
        struct run r = { .kind = kind, .step = step, .o = &o, .device = &cpu_device };
        struct verdict v = problem_judge(&r, k->name);
        wrong = v.wrong > 0;
        if (!wrong && !rows_stand_alone(&r, k->name)) {
            wrong = true;
            snprintf(v.what, sizeof v.what, "not the same bits when run again, with another last row");
        }
        problem_free(&r);
        snprintf(what, size, "%s: %s", shape_of(&o), v.what);
    }
    return wrong;
}

/* The next word of a list such as "normal, uniform", from *at on. false: there is none. */
static bool next_family(const char **at, char *word, size_t size)
{
    size_t length = strcspn(*at, ",");
    snprintf(word, size, "%.*s", (int)length, *at);
    *at += length + strspn(*at + length, ", ");
    return length > 0;
}

static const char *families_of(const struct kernel *k)
{
    return k->attention ? attention_families : input_families;
}

/* ---- answers */

static bool answer(const struct kernel *k, const char *family)
{
    char what[512];
    bool caught = shows(k, &k->step, family, what, sizeof what);
    if (caught)
        printf("caught by %s, %s\n\n", family, what);
    else
        printf("not caught: with %s numbers it passes, at every shape that was tried\n", family);
    return caught;
}

static void give(const struct kernel *k)
{
    char family[32], what[512];
    const char *at = families_of(k);
    tell(k);
    printf("It is shown by");
    while (next_family(&at, family, sizeof family))
        if (shows(k, &k->step, family, what, sizeof what))
            printf(" %s", family);
    printf("\n");
}

static void ask(const struct kernel *k, int number)
{
    char line[64];
    printf("\nWhat is wrong with it, and which family of inputs shows it? For some kernels any does, for some only one:\n%s\n",
           families_of(k));
    if (!isatty(STDIN_FILENO)) {
        printf("make quiz QUIZ=%d INPUT=rising answers so, and GIVE=1 in its place gives up.\n", number);
        return;
    }
    printf("Type one, or `give` to give up.\n");
    while (printf("> "), fflush(stdout), fgets(line, sizeof line, stdin)) {
        line[strcspn(line, " \n")] = '\0';
        if (strcmp(line, "give") == 0 || (input_is_family(line, k->attention) && answer(k, line))) {
            give(k);
            return;
        }
        if (!input_is_family(line, k->attention))
            printf("it is none of %s\n", families_of(k));
    }
    printf("\n");
}

/* The first family that shows it, of step k->step or, without its mistake, k->right; NULL: none does. */
static const char *shown_by(const struct kernel *k, const void *step)
{
    static char family[32];
    char what[512];
    for (const char *at = families_of(k); next_family(&at, family, sizeof family);)
        if (shows(k, step, family, what, sizeof what))
            return family;
    return NULL;
}

/* Every kernel is shown by some family; and if `steps_too`, by none is the step that it mimics. */
static int check(bool steps_too)
{
    int bad = 0;
    for (const struct kernel *k = kernels; k < kernels + count; k++) {
        bool first = steps_too;
        for (const struct kernel *other = kernels; other < k; other++)
            first &= other->right != k->right;
        const char *family = shown_by(k, &k->step);
        printf("%d: bug-%d, %s: shown by %s\n", (int)(k - kernels) + 1, k->bug, k->name, family ? family : "none");
        bad += !family;
        family = first ? shown_by(k, k->right) : NULL;
        if (family)
            bad++, printf("%s shows that %s without its mistake is wrong\n", family, k->name);
    }
    return bad ? EXIT_FAILED : 0;
}

static const char *given(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

int main(int argc, char **argv)
{
    const char *chosen = given("QUIZ"), *family = given("INPUT");
    char *end;
    long number = strtol(chosen, &end, 10);
    gather();
    if (argc > 1)
        return check(strcmp(argv[1], "--check") == 0);
    if (*chosen && (*end || number < 1 || number > count))
        usage_error("QUIZ=%s: a number from 1 to %d is allowed; without one, one is chosen", chosen, count);
    if (!*chosen && (*family || *given("GIVE")))
        usage_error("%s: of which kernel? QUIZ=1 to %d chooses it", *family ? "INPUT" : "GIVE", count);
    if (!*chosen)
        number = 1 + (long)(random_bits((uint64_t)time(NULL), 0) % (uint64_t)count);
    const struct kernel *k = &kernels[number - 1];
    if (*family && !input_is_family(family, k->attention))
        usage_error("INPUT=%s: allowed is one of %s", family, families_of(k));
    if (*family && !answer(k, family))
        return EXIT_FAILED;
    if (*family || *given("GIVE")) {
        give(k);
        return 0;
    }
    printf("Quiz %ld of %d: a broken %s in %s, held to the claims of %s.\n", number, count,
           k->attention ? "attention" : "softmax", dtype_name(k->dtype), k->mimics);
    printf("%s\n", k->attention ? "What it calls is right, and stands in tests/mutants/attention.h.\n" : "");
    show_code(k);
    ask(k, (int)number);
    return 0;
}

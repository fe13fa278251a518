/*
 * `make try-N`: a reader's answer to a step's exercise, held to what the step itself is held to, and timed in turn with it. A
 * wrong answer gets the smallest input that shows it, and the name of the known mistake that gives the same results. Exit status:
 * 0 if all that ran is solved.
 *
 * exercise.py writes a file for each step that includes this one, and says there: COURSE, the step (online_softmax); ANSWER, the
 * same claims with the reader's functions; PIECES, those that cut keys into pieces, or NULL; ATTENTION and BACKWARD, 0 or 1; OWN,
 * the mutants of this very step.
 */
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mutants/attention.h"
#include "mutants/mutants.h"
#include "program.h"
#include "ring/ring.h"
#include "steps.h"

#define SOLVED 0.8    /* of the course's speed: what differs by less differs by more than the idea */
#define BETTER 1.05   /* and apart from it: a fast turn of the course's is slower than a slow one of the answer */
#define SAME 1e-4     /* relative: two ways of making the same mistake round differently */
#define CANCELLED 1e-4 /* of the largest number: so far may sums that cancel be apart, of positive and negative numbers */
#define MAX_ROW 16    /* elements of a row that are shown */
#define RAGGED 59     /* dims of every other small problem: whole registers, and a rest */
#define PARTS 3       /* that small problems are cut into: one has a part before it and one behind it */

#if ATTENTION
typedef struct attention_step step;
#define KIND (BACKWARD ? attention_backward_kind() : COURSE.paged.cpu ? attention_paged_kind() : attention_kind)
#define STEP_HAS attention_has
#define OVERFLOWS false
#define RING COURSE.ring
#define ANY_DIM (!COURSE.dims[0])
#define SMALLEST_DIM (ANY_DIM ? 1 : COURSE.dims[0])
#else
typedef struct softmax_step step;
#define KIND (BACKWARD ? softmax_backward_kind() : softmax_kind)
#define STEP_HAS softmax_has
#define OVERFLOWS COURSE.overflows
#define RING false
#define ANY_DIM false
#define SMALLEST_DIM 0
#endif
extern const step COURSE, ANSWER;

static const struct {
    const char *name, *why;
    attention_pieces_fn *pieces;
    step step;
} own[] = { OWN { 0 } };
enum { OWN_COUNT = sizeof own / sizeof own[0] - 1 };

/* A known mistake: a mutant of the gallery, or of this step alone. */
struct mistake {
    const char *name, *where;
    const void *step;
};

static char smallest[256], like[256]; /* what was found out about a wrong answer; empty: nothing */
static bool all_solved = true;

/* ---- in parts: with one thread, one rank or few keys a step may have nothing to merge, and a wrong merge would pass */

static struct kind whole, in_parts; /* the step's own kind; and the same, whose small problems have parts, and other dims */

static const char *small_in_parts(const void *step, struct options *o, int index)
{
    const char *name = whole.small(step, o, index);
    struct attention *p = &o->attention;
    bool usual = p->scale == default_scale(p->dim);
    o->parts = PARTS;
    if (ANY_DIM && name && index % 2) {
        p->dim = RAGGED;
        p->scale = usual ? default_scale(RAGGED) : p->scale;
    }
    return name;
}

static attention_pieces_fn *const answer_in_pieces = PIECES;

static attention_pieces_fn *pieces_of(const void *step)
{
    for (int i = 0; i < OWN_COUNT; i++)
        if (step == &own[i].step)
            return own[i].pieces;
    return step == &ANSWER ? answer_in_pieces : NULL;
}

static void call_in_parts(const struct run *r)
{
    const struct buffer *t = r->tensor;
    int parts = r->o->parts, threads = cpu_threads(), ranks = ring_ranks();
    attention_pieces_fn *pieces = parts && !r->device->apart ? pieces_of(r->step) : NULL;
    if (pieces) {
        pieces(t[3].data, t[4].data, t[0].data, t[1].data, t[2].data, r->o->attention, r->o->dtype, parts);
        return;
    }
    cpu_set_parts(parts > threads ? parts : threads);
    ring_set_ranks(parts > ranks ? parts : ranks);
    whole.call(r);
    cpu_set_parts(threads);
    ring_set_ranks(ranks);
}

/* ---- which mistake it is */

static bool same(float a, float b, float largest)
{
    return (isnan(a) && isnan(b)) || a == b || fabsf(a - b) <= SAME * (fabsf(a) + fabsf(b)) + CANCELLED * largest;
}

/* Of a softmax nothing cancels. */
static float largest_of(const struct buffer *t, enum dtype dtype)
{
    float largest = 0;
    for (int64_t i = 0; (ATTENTION || BACKWARD) && i < (int64_t)(t->bytes / dtype_bytes(dtype)); i++) {
        float x = fabsf((float)element(t->data, dtype, i));
        largest = isfinite(x) && x > largest ? x : largest;
    }
    return largest;
}

static bool same_outputs(const struct run *a, const struct run *b)
{
    for (int t = a->kind->inputs; t < a->kind->inputs + a->kind->outputs; t++) {
        float largest = largest_of(&b->host[t], a->o->dtype);
        for (int64_t i = 0; i < (int64_t)(a->host[t].bytes / dtype_bytes(a->o->dtype)); i++)
            if (!same(element(a->host[t].data, a->o->dtype, i), element(b->host[t].data, a->o->dtype, i), largest))
                return false;
    }
    return true;
}

static bool mistake_at(struct mistake *m, bool attention, int index)
{
    if (index < OWN_COUNT)
        *m = (struct mistake){ own[index].name, own[index].why, &own[index].step };
    else if (BACKWARD) /* the gallery has none */
        return false;
    else if (attention && index - OWN_COUNT < attention_mutant_count) {
        const struct attention_mutant *a = &attention_mutants[index - OWN_COUNT];
        *m = (struct mistake){ a->step.name, a->file, &a->step };
    } else if (!attention && index - OWN_COUNT < mutant_count) {
        const struct mutant *a = &mutants[index - OWN_COUNT];
        *m = (struct mistake){ a->step.name, a->file, &a->step };
    } else
        return false;
    return true;
}

/*
 * Whether the mistake gives the answer's results on every problem: the smallest that fails, if one does, and the small ones.
 * (On a CPU, where the gallery runs: what is looked for is the idea, not the last bits. Of scores near 50000 these make weights:
 * there two ways to add up agree in nothing.)
 */
static bool is_mistake(const struct run *answer, const struct mistake *m, const struct options *failing)
{
    struct options o = failing ? *failing : *answer->o;
    for (int i = failing ? -1 : 0; i < 0 || answer->kind->small(answer->step, &o, i); i++, o = *answer->o) {
        struct run theirs = { .kind = answer->kind, .step = m->step, .o = &o, .device = &cpu_device };
        struct run ours = { .kind = answer->kind, .step = answer->step, .o = &o, .device = answer->device };
        if (answer->kind->missing(m->step, &o, &cpu_device))
            return false;
        if (ATTENTION && i >= 0 && strcmp(o.input, "deep") == 0)
            continue;
        problem_judge(&ours, "");
        problem_judge(&theirs, "");
        bool alike = same_outputs(&ours, &theirs);
        problem_free(&ours);
        problem_free(&theirs);
        if (!alike)
            return false;
    }
    return true;
}

/* What a mutant of the gallery is: the first line of its comment. Elsewhere it is said in the list. */
static const char *about(const char *where)
{
    static char line[256];
    FILE *file = strncmp(where, "tests/", 6) == 0 ? fopen(where, "r") : NULL;
    char *found = NULL;
    while (file && !found && fgets(line, sizeof line, file))
        found = strstr(line, "Mutant: ");
    if (file)
        fclose(file);
    if (found)
        found[strcspn(found, "\n")] = '\0';
    return found ? found + strlen("Mutant: ") : where;
}

/* Some of the mistakes are reads past the end. So that they live to be compared, there are no guard pages meanwhile. */
static void name_mistake(const struct run *r, const struct options *failing, bool said)
{
    struct mistake m;
    unsetenv("GUARD_PAGES");
    for (int i = 0; mistake_at(&m, r->o->is_attention, i); i++)
        if (is_mistake(r, &m, failing)) {
            snprintf(like + strlen(like), sizeof like - strlen(like), "%s%s", *like ? " " : "", m.name);
            if (said)
                printf("    like        %s: %s\n", m.name, about(m.where));
        }
    setenv("GUARD_PAGES", "1", 1);
}

/* ---- the smallest input that shows it */

static const char *const families[] = { "normal", "rising", "falling", "far", "peak", "masked", "empty", "nan", "deep" };
enum { FAMILIES = sizeof families / sizeof families[0], ORDINARY = 1 };

/* The index-th of ever larger problems, of one family; false: there are no more. */
static bool tiny(struct options *o, int index)
{
    static const int64_t cols[] = { 1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 64, 65, 130, 257, 1000, 1023, 4097, 20003, 131073 };
    static const int64_t keys[] = { 1, 2, 3, 4, 8, 16, 17, 33, 64, 65, 130, 300, 515 };
    static const struct attention shapes[] = { /* batch, heads, kv_heads, seq_q, and seq_k, dim times these; causal */
        { 1, 1, 1, 1, 1, 1, false, 0 },  { 1, 1, 1, 2, 1, 1, true, 0 },   { 1, 1, 1, 5, 1, 1, true, 0 },
        { 1, 2, 1, 2, 1, 1, false, 0 },  { 2, 2, 2, 2, 1, 1, false, 0 },  { 1, 1, 1, 2, 1, 64, false, 0 },
        { 1, 1, 1, 67, 1, 64, true, 0 },
    };
    enum { COLS = sizeof cols / sizeof cols[0], KEYS = sizeof keys / sizeof keys[0], SHAPES = sizeof shapes / sizeof shapes[0] };
    if (!o->is_attention) {
        o->cols = cols[index / 3 % COLS];
        o->rows = (int64_t[]){ 1, 4, o->cols < 5000 ? 36 : 5 }[index % 3];
        return index < 3 * COLS;
    }
    o->attention = shapes[index % SHAPES];
    o->attention.seq_k *= keys[index / SHAPES % KEYS];
    o->attention.dim = SMALLEST_DIM > o->attention.dim ? SMALLEST_DIM : o->attention.dim;
    o->attention.scale = default_scale(o->attention.dim);
    return index < SHAPES * KEYS;
}

static void print_row(const struct run *r, int tensor, int64_t row)
{
    static const char *const names[][3] = { { "x", "yours" }, { "y", "dy", "yours" } };
    int64_t cols = (int64_t)(r->host[tensor].bytes / dtype_bytes(r->o->dtype)) / r->o->rows;
    printf("      %-6s", names[BACKWARD][tensor]);
    for (int64_t col = 0; col < cols; col++)
        printf(" %9.4g", plain(element(r->host[tensor].data, r->o->dtype, row * cols + col)));
    printf("\n");
}

/* The options that make a step run on this problem. */
static void say_options(char *text, size_t size, const struct options *o)
{
    const struct attention *p = &o->attention;
    char parts[64] = "";
    int usual = RING ? ring_ranks() : cpu_threads();
    if (RING || (o->parts && (answer_in_pieces || o->parts > usual)))
        snprintf(parts, sizeof parts, answer_in_pieces ? ", in %d pieces" : RING ? " --ranks %d" : " --threads %d",
                 o->parts > usual || answer_in_pieces ? o->parts : usual);
    if (o->is_attention)
        snprintf(text, size, "--batch %lld --heads %lld --kv-heads %lld --seq-q %lld --seq-k %lld --dim %lld%s --input %s%s",
                 (long long)p->batch, (long long)p->heads, (long long)p->kv_heads, (long long)p->seq_q, (long long)p->seq_k,
                 (long long)p->dim, p->causal ? " --causal" : "", o->input, parts);
    else
        snprintf(text, size, "--rows %lld --cols %lld --input %s%s", (long long)o->rows, (long long)o->cols, o->input, parts);
}

/* Whether a gradient is asked for such numbers. */
static bool is_asked(const char *family)
{
    return input_is_family(family, ATTENTION) &&
           !(ATTENTION && BACKWARD && (strcmp(family, "masked") == 0 || strcmp(family, "nan") == 0));
}

/* Whether it takes no parts to see that the answer is wrong there. */
static bool wrong_whole(const struct run *r, struct options *o)
{
    struct run run = { .kind = r->kind, .step = r->step, .o = o, .device = r->device };
    o->parts = 0;
    bool wrong = problem_judge(&run, "").wrong > 0;
    problem_free(&run);
    return wrong;
}

/* The first of ever larger problems that the answer gets wrong. False: it gets all of them right. */
static bool find_smallest(const struct run *r, bool said, struct options *found)
{
    for (int i = 0;; i++)
        for (int f = 0; f < (OVERFLOWS ? ORDINARY : FAMILIES); f++) {
            if (!is_asked(families[f]))
                continue;
            *found = (struct options){
                .is_attention = r->o->is_attention, .dtype = r->o->dtype, .input = families[f], .seed = 1, .cpu = true,
                .parts = PARTS,
            };
            if (!tiny(found, i)) {
                smallest[0] = '\0';
                return false;
            }
            struct run small = { .kind = r->kind, .step = r->step, .o = found, .device = r->device };
            say_options(smallest, sizeof smallest, found);
            struct verdict v = problem_judge(&small, "");
            if (v.wrong) {
                struct options alone = *found;
                if (wrong_whole(r, &alone))
                    say_options(smallest, sizeof smallest, &alone);
                if (said)
                    printf("    smallest    %s\n                %s\n", smallest, v.what);
                for (int t = 0; said && !ATTENTION && found->cols <= MAX_ROW && v.first_wrong >= 0 && t < 2 + BACKWARD; t++)
                    print_row(&small, t, v.first_wrong);
            }
            problem_free(&small);
            if (v.wrong)
                return true;
        }
}

/* ---- what is said */

/* ATTEMPT=FILE in the environment: a line of JSON for each device, for `make progress` and for teachers. */
static void write_json(const struct run *r, const struct result *result, double share, bool solved, bool better)
{
    const char *path = getenv("ATTEMPT");
    FILE *file = path && *path ? fopen(path, "a") : NULL;
    if (!file)
        return;
    fprintf(file, "{\"step\": \"%s\", \"device\": \"%s\", \"model\": \"%s\", \"dtype\": \"%s\", ", result->step, r->device->name,
            result->device, dtype_name(result->dtype));
    fprintf(file, "\"verdict\": \"%s\", ", result->verdict.pass ? "right" : "wrong");
    if (share > 0)
        fprintf(file, "\"median_ms\": %.6g, \"share\": %.4g, ", result->time.median, share);
    if (share > 0 && result->ceiling && isfinite(result->percent))
        fprintf(file, "\"percent\": %.4g, \"ceiling\": \"%s\", ", result->percent, result->ceiling);
    fprintf(file, "\"solved\": %s, \"better\": %s, \"smallest\": \"%s\", \"like\": \"%s\"}\n", solved ? "true" : "false",
            better ? "true" : "false", smallest, like);
    fclose(file);
}

static pid_t judge;      /* this process; the ranks of a ring are others, which do not speak */
static bool under_way;   /* what is looked for is the smallest problem that ends the program */

/* The problem under way is the smallest that shows it. */
static void say_ended(const char *what)
{
    char text[512];
    int size = snprintf(text, sizeof text, "    smallest    %s\n                %s\n", *smallest ? smallest : "one element",
                        what);
    _exit(write(STDOUT_FILENO, text, (size_t)size) == size ? EXIT_FAILED : EXIT_FAILED + 1);
}

/* It touches what it must not, or was told to end because it does not. */
static void ended(int signal_number)
{
    static atomic_flag said = ATOMIC_FLAG_INIT; /* several threads may have got here */
    if (getpid() != judge) {
        signal(signal_number, SIG_DFL);
        raise(signal_number);
        return;
    }
    while (atomic_flag_test_and_set(&said))
        pause();
    ring_end();
    if (!under_way)
        _exit(EXIT_FAILED);
    say_ended(signal_number == SIGTERM ? "it does not end" : signal_number == SIGFPE ? "it divides by an integer 0" :
              "it reads or writes outside its tensors");
}

/* A rank has died, or another one waited for it in vain: that has been said. */
static void ring_ended(void)
{
    fflush(stdout);
    if (under_way && getpid() == judge)
        say_ended("a rank does not come to its end");
}

/* ms in which a block may travel while a rank computes, in all ranks. */
static double beside(const struct run *r, const void *step)
{
    struct run run = *r;
    double sum = 0;
    run.step = step;
    run.kind->call(&run);
    for (int rank = 0; rank < ring_ranks(); rank++)
        sum += ring_times_of(rank).beside;
    return sum;
}

static void say_wrong(const struct run *r, const struct result *result, bool said)
{
    const struct verdict *v = &result->verdict;
    struct options found;
    if (said)
        printf("  %s: %s\n    verdict     %s: %s\n    (looking for the smallest input that shows it, and for a known mistake "
               "that gives the same: up to a minute)\n",
               r->device->name, result->device, verdict_word(v), v->what);
    fflush(stdout);
    bool small = find_smallest(r, said, &found);
    if (said && !small)
        printf("    smallest    none of the inputs that were tried: what is wrong takes a larger one, as above\n");
    name_mistake(r, small ? &found : NULL, said);
    if (said)
        printf("  not solved: it is wrong\n");
}

/* In a line, of what is right. */
static void say_right(const struct result *result, const struct before *b, bool idle, bool solved, bool better)
{
    double of_course = result->ceiling ? result->percent / b->time.median : 0; /* its share of the ceiling */
    printf("    yours       %.2fx the speed of the course's %s, which took turns; ", b->time.median, b->step);
    if (b->time.least < b->time.most)
        printf("%.2f to %.2f, slow turns against fast\n", b->time.least, b->time.most);
    else
        printf("a single turn of each\n");
    if (idle)
        printf("  not solved yet: right, but while a rank computes no block travels\n");
    else if (better)
        printf("  solved, and better than the book\n");
    else if (!solved && b->time.most > SOLVED)
        printf("  not solved yet: right, and perhaps fast enough: turns differ too much to tell: try again when it is quiet\n");
    else if (!solved)
        printf("  not solved yet: right, but slower than 0.8 of the course's speed; make hint-%d may say why\n",
               atoi(b->step));
    else if (of_course <= 100 && of_course * BETTER > 100 && b->time.median <= BETTER)
        printf("  solved: right, and as fast as the book, which has %.0f %% of %s: nothing is %g times as fast\n", of_course,
               result->ceiling, BETTER);
    else if (b->time.median > BETTER)
        printf("  solved: right, and perhaps faster than the book: its fast turns are as fast as slow ones of yours\n");
    else
        printf("  solved: right, and about as fast as the book (from 0.8 of its speed on)\n");
}

static void judged(const struct run *r, const struct result *result, const struct before *before)
{
    bool said = !r->o->json;
    double share = before && !*before->why_not ? before->time.median : 0;
    bool idle = RING && before && beside(r, r->step) < 0.5 * beside(r, &COURSE); /* twice as long: of a loaded machine */
    bool solved = before && !idle && (*before->why_not || share >= SOLVED);
    bool one_turn = before && before->time.least == before->time.most;
    bool better = solved && share > BETTER && before->time.least > 1 && !one_turn;
    all_solved &= solved;
    smallest[0] = like[0] = '\0';
    if (getenv("SMALLEST")) {
        find_smallest(r, said, &(struct options){ 0 });
        return;
    }
    if (!before)
        say_wrong(r, result, said);
    else if (said && *before->why_not)
        printf("    the course's was not timed: %s\n", before->why_not);
    else if (said)
        say_right(result, before, idle, solved, better);
    write_json(r, result, share, solved, better);
}

/* In every type that the answer has on a device that is asked for, unless the reader chooses one. */
int main(int argc, char **argv)
{
    static char dtype_option[] = "--dtype";
    const struct device *const devices[] = { &cpu_device, &gpu_device };
    char *words[argc + 3];
    int status = 0, ran = 0;
    bool asked[2] = { true, true }, chosen = false;
    for (int i = 1; i < argc; i++) {
        chosen |= strncmp(argv[i], dtype_option, strlen(dtype_option)) == 0;
        asked[0] &= strcmp(argv[i], "gpu") != 0;
        asked[1] &= strcmp(argv[i], "cpu") != 0;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    whole = in_parts = KIND;
    in_parts.small = small_in_parts;
    in_parts.call = call_in_parts;
    judge = getpid();
    under_way = getenv("SMALLEST") != NULL;
    signal(SIGTERM, ended);
    if (under_way) {
        signal(SIGSEGV, ended);
        signal(SIGBUS, ended);
        signal(SIGFPE, ended);
        atexit(ring_ended);
    }
    attempt = judged;
    for (enum dtype d = FP32; d <= BF16 && !chosen && !OVERFLOWS; d++) {
        if (!(asked[0] && STEP_HAS(&ANSWER, devices[0], d)) && !(asked[1] && STEP_HAS(&ANSWER, devices[1], d)))
            continue;
        memcpy(words, argv, (size_t)argc * sizeof *words);
        words[argc] = dtype_option;
        words[argc + 1] = (char *)dtype_name(d);
        words[argc + 2] = NULL;
        status |= program_main(&in_parts, &ANSWER, ANSWER.name, ANSWER.idea, &COURSE, COURSE.name, argc + 2, words);
        ran++;
    }
    if (!ran)
        status = program_main(&in_parts, &ANSWER, ANSWER.name, ANSWER.idea, &COURSE, COURSE.name, argc, argv);
    under_way = false;
    return status || all_solved ? status : EXIT_FAILED;
}

/*
 * What a kind of problem (softmax, attention) tells the program that runs its steps. The program, program.c, is the same for all
 * kinds: parse the options, and on every device asked for run, judge, time, report. A kind is one struct of functions, in a file
 * of its own (softmax.c, attention.c) with its claims, shapes and reference; docs/adding-a-step.md says how to add one.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include "harness.h"

enum { MAX_TENSORS = 10 };

/* Calls a step's function for elements of a type: f, f_fp16 or f_bf16. */
#define CALL_FOR(dtype, f, ...)                  \
    do                                           \
        switch (dtype) {                         \
        case FP16: f##_fp16(__VA_ARGS__); break; \
        case BF16: f##_bf16(__VA_ARGS__); break; \
        default:   f(__VA_ARGS__); break;        \
        }                                        \
    while (0)

/* One step on one problem on one device. `step` is what it claims: a
   struct softmax_step, an attention_step, or whatever its kind has. */
struct run {
    const struct kind *kind;
    const void *step;
    const struct options *o;           /* the problem */
    const struct device *device;
    struct buffer host[MAX_TENSORS];   /* the kind's inputs, then its outputs */
    struct buffer tensor[MAX_TENSORS]; /* the same on the device; on a CPU the very same memory */
    struct buffer workspace;           /* on a GPU, zeroed, where the step wants one */
};

struct kind {
    enum step_kind options;
    int inputs, outputs;    /* tensors */
    const char *error;      /* how a verdict's error and what is allowed are said: two %g */
    const char *unit;       /* what exponentials are counted for: "an element" */
    const char *compulsory; /* what effective bandwidth counts: "Q, K, V and O" */
    double products;        /* FLOPs of a unit, for each dim; 0: they are not counted */

    /* The problem. finish: what this step cannot take is a usage_error, and what was not given becomes the step's default. */
    const struct attention *(*usual)(const void *step); /* the problem where none is given, if the step has its own. Or NULL */
    void (*finish)(const void *step, struct options *o);
    /* o: as asked for; becomes the index-th problem of its sweep. false: there is none */
    bool (*sweep)(struct options *o, int index);
    /* The same for small problems with inputs that show mistakes: every run judges these too. Returns its name; NULL: no more. */
    const char *(*small)(const void *step, struct options *o, int index);
    double (*units)(const struct options *o); /* how many of these there are */
    int64_t (*rows)(const struct options *o); /* of the first input, and of all outputs: none depends on another */
    bool (*any_order)(const void *step, const struct device *device); /* a row may have other bits when run again. Or NULL: no */
    double (*useful)(const struct options *o); /* bytes: every input once, every output once */
    void (*inputs_new)(const struct options *o, struct buffer *inputs);
    /* The inputs that follow from others, of which each problem of a sweep has its own. Or NULL: there are none */
    void (*forward)(const struct options *o, struct buffer *inputs);
    size_t (*bytes)(const struct options *o, int tensor);

    /* The step. missing: why it cannot run there, in one line; NULL: it can. */
    const char *(*missing)(const void *step, const struct options *o, const struct device *device);
    size_t (*workspace)(const void *step, const struct options *o, const struct device *device); /* bytes, besides the tensors */
    void (*call)(const struct run *r);
    timed_fn *(*clock)(const void *step, const struct device *device); /* its own, if it has one. Or NULL: none has */
    struct cost (*predict)(const void *step, const struct options *o, const struct device *device);
    /* The step before, where that is another on this device, and its name. Or NULL: it is what program_main() is told */
    const void *(*before)(const struct device *device, const char **name);

    /* Judging and measuring it. beside: what takes turns with the step when that is timed; its run is NULL where nothing does. */
    struct verdict (*verify)(const struct run *r);
    double (*verify_bytes)(const struct options *o, const struct device *device); /* of memory that it takes */
    struct work (*beside)(struct run *r);
    /* sizes, input, useful bytes, FLOPs, the ceiling */
    void (*measure)(const struct run *r, struct result *result, const struct timing *beside);

    /* Reporting it. */
    void (*print_problem)(const struct options *o);
    void (*print_cost)(const struct run *r, const struct result *result, const struct timing *beside);
    void (*print_line)(const struct options *o, const struct result *result); /* in a sweep */
    void (*write)(const struct run *r);                                       /* the outputs, to the files asked for */
};

/* --trace: prints how the state of a short row grows, and what the step's CPU version makes of it (trace.c). */
void trace(const struct kind *kind, const void *step, const struct options *asked);
double plain(float x); /* to be printed: NaN has two signs, and one is enough */

/*
 * A reader's attempt at a step (tests/try.c). Where this is set it is told each result, with the course's step as the step
 * before, which is timed if the verdict is good; and build/results.tsv and --json are left alone.
 */
extern void (*attempt)(const struct run *r, const struct result *result, const struct before *before);

/* For it: makes the tensors of the problem r->o, runs r->step on it once, and judges that. Then problem_free(r). */
struct verdict problem_judge(struct run *r, const char *name);
/* Runs it once, into poisoned memory, and brings the outputs to the host: between the two. */
void problem_run(struct run *r, const char *name);
/*
 * Whether all rows but the last have the same bits when the step is run again and the last row of the first input is another: a
 * row must depend on no other, and on no chance. Between the two; it leaves other outputs.
 */
bool rows_stand_alone(struct run *r, const char *name);
void problem_free(struct run *r);

/* The gradients of softmax and attention: like the kinds below, but for what backward.c puts in their place. */
struct kind softmax_backward_kind(void);
struct kind attention_backward_kind(void);
/* Attention whose cache lies in pages: paged.c. */
struct kind attention_paged_kind(void);

void ring_report(const struct run *r, const struct result *result); /* of a ring (common/ring/report.c): prints its lines */

extern const struct kind softmax_kind, attention_kind;
/* What attention_kind.finish does, of steps that compute gradients, too. */
void attention_finish_any(const void *step, struct options *o);

/* main() of a step of this kind. before: the step that takes turns with it, or NULL. Returns the exit status. */
int program_main(const struct kind *kind, const void *step, const char *name, const char *idea, const void *before,
                 const char *before_name, int argc, char **argv);

#endif

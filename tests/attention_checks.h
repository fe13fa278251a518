/*
 * The checks of attention: inputs that a wrong attention does not survive, and properties that a right one has, each with a name.
 * As in checks.h, the same ones judge the steps, which must pass them all, and the mutants.
 */
#ifndef ATTENTION_CHECKS_H
#define ATTENTION_CHECKS_H

#include "checks.h"

/* A problem and its tensors, in guarded host memory. */
struct attention_case {
    struct attention p;
    enum dtype dtype;
    struct buffer q, k, v, O, lse;
    struct answers answers;         /* to q, k and v as they were when somebody first asked; count is 0 before */
    struct attention_rounding how;  /* that they are for */
    double rule;                    /* what FlashAttention's rule allows; 0 before somebody asks */
    bool in_doubt;                  /* rows may be in doubt: see struct attention_check */
};

/* Tensors that hold nothing yet; a scale of 0 becomes 1 / sqrt(dim). */
struct attention_case attention_case_new(struct attention p, enum dtype dtype);
/* Q, K and V of a family of common/harness/input.c. "real" has a shape of its own, of which only `causal` is chosen. */
struct attention_case attention_case_of(struct attention p, enum dtype dtype, const char *family);
void attention_case_free(struct attention_case *c);
/*
 * Run on the CPU, or on copies on the GPU, into outputs that are all NaN before. want_lse: whether an lse is asked for. NULL, or
 * what went wrong: a CUDA error, guard bands, inputs that were written.
 */
const char *attention_case_run(const struct attention_subject *s, struct attention_case *c, bool want_lse);
/* What O and lse must be: computed when a subject first asks, and kept for the next one that rounds likewise. */
const struct answers *attention_case_answers(struct attention_case *c, const struct attention_subject *s);
/* O and lse as they are now, against those; for 16-bit types against FlashAttention's rule, too. */
struct outcome attention_case_verdict(const struct attention_subject *s, struct attention_case *c);

/* Whether |O - exact| stays within twice that of an attention that rounds every result to the type, plus one rounding. */
bool flash_attention_rule(struct attention_case *c, double *error, double *allowed);
/* That attention: O becomes its result. */
void same_precision_attention(struct attention_case *c);

struct attention_check {
    const char *name;
    const char *about;  /* what goes in, or what must hold */
    const char *family; /* of attention_case_of; NULL: fill */
    void (*fill)(struct attention_case *c);
    struct outcome (*judge)(const struct attention_subject *s, struct attention_case *c); /* NULL: run it, and the verdict */
    bool cpu_only;      /* asks for more than the GPU functions promise */
    bool gpu_only;      /* its sizes mean nothing to a CPU */
    /* scores so large that rows cannot be judged, but for what no right attention gets: nothing wrong will do */
    bool in_doubt;
    bool library_fails; /* step 12 does not pass it, and says so: a library multiplies what is hidden by 0 */
    const struct attention *problems;
    int count;
};

extern const struct attention_check attention_checks[];
extern const int attention_check_count;

const struct attention_check *attention_check_named(const char *name); /* NULL when there is none */
/* Whether a check is to be run: TESTS_CHECK in the environment names one, and without it all are. */
bool check_is_chosen(const char *name);
/* The same for TESTS_DTYPE. */
bool dtype_is_chosen(enum dtype dtype);
/* The index-th check on a type of element, of all that are to be run and have a subject; false when there are fewer. */
bool attention_group_at(int index, bool gpu, const struct attention_check **c, enum dtype *dtype);
int attention_group_count(bool gpu);
bool attention_must_fail(const struct attention_check *c, const struct attention_subject *s);
/*
 * All problems of a check, on each of `count` subjects of one type until it fails one that it takes: outcomes (count). Inputs and
 * references are made once a problem. TESTS_SMALL: as for check_run.
 */
void attention_check_all(const struct attention_check *c, const struct attention_subject *subjects, int count,
                         struct outcome *outcomes);
struct outcome attention_check_run(const struct attention_check *c, const struct attention_subject *s); /* on one */

#endif

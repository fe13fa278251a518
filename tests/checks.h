/*
 * The checks: inputs that a wrong softmax does not survive, each with a name. The same ones judge the steps, which must
 * pass them all, and the mutants, each of which must fail the one that was made for it.
 */
#ifndef CHECKS_H
#define CHECKS_H

#include "all_steps.h"

/* One run: x is (rows, cols), and it and y start that many elements after an aligned address. */
struct problem {
    int64_t rows, cols;
    int x_offset, y_offset;
};

struct check {
    const char *name;
    const char *about;  /* what goes in */
    const char *family; /* of input_fill; NULL: value */
    /* Element (row, col) of a row of cols. `largest` is the largest finite number of the type. */
    float (*value)(int64_t row, int64_t col, int64_t cols, float largest);
    bool beyond_exp;              /* exp of these numbers leaves the range of every type: the naive softmax must fail */
    bool beyond_fp16;             /* more numbers than a sum in fp16 can add: not for the naive softmax in fp16 */
    bool cpu_only;                /* asks for more than the GPU functions promise */
    const int64_t (*problems)[4]; /* rows, cols, the offsets of x and y */
    int count;
};

struct outcome {
    bool pass;
    double error, tolerance; /* the worst relative error of all problems, and what was allowed there */
    char what[320];          /* what went wrong, in words */
};

extern const struct check softmax_checks[];
extern const int softmax_check_count;

const struct check *check_named(const char *name); /* NULL when there is none */
/* The index-th check on a type of element, of all that are to be run and have a subject; false when there are fewer. */
bool group_at(int index, bool gpu, const struct check **c, enum dtype *dtype);
int group_count(bool gpu);
bool is_naive(const struct subject *s); /* step 01, whose lesson it is to fail */
/* x: (rows, cols), the check's numbers. */
void check_fill(const struct check *c, void *x, enum dtype dtype, int64_t rows, int64_t cols);
/*
 * All problems of a check, on each of `count` subjects of one type until it fails one: outcomes (count). Inputs and references
 * are made once a problem. With TESTS_SMALL in the environment, which is for sanitizers and their fiftyfold time, only the
 * check's first problem and those of up to 10000 elements.
 */
void check_all(const struct check *c, const struct subject *subjects, int count, struct outcome *outcomes);
struct outcome check_run(const struct check *c, const struct subject *s); /* on one */
/* Whether a subject is not made for a check: the naive softmax in fp16 cannot add many numbers. */
bool check_leaves_out(const struct check *c, const struct subject *s);
struct mutant; /* tests/mutants/mutants.h */
const struct mutant *mutant_at(int index, bool gpu); /* the index-th that runs there; NULL when there are fewer */
/* What is wrong when the check named for a mutant lets it pass, or rejects the step that it mimics; NULL when all is well. */
const char *mutant_escapes(const struct mutant *m);

/* A problem, its x: (rows, cols) of type dtype in host memory, and what must come out. */
struct softmax_case {
    struct problem p;
    enum dtype dtype;
    void *x;
    struct softmax_answers answers;
};

struct softmax_case case_new(struct problem p, enum dtype dtype, const char *family); /* NULL: x is left to the caller */
void case_answer(struct softmax_case *c);                                             /* once x is there */
void case_free(struct softmax_case *c);
/*
 * Runs it, between guard bands and with a zeroed workspace. y, of x's size in host memory, takes the result. case_run: NULL, or
 * what went wrong besides the numbers. case_judge: the numbers, too.
 */
const char *case_run(const struct softmax_case *c, const struct subject *s, void *y);
struct outcome case_judge(const struct softmax_case *c, const struct subject *s, void *y);

#endif

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
/* The index-th check of an implementation, of all that are to be run; false when there are fewer. */
bool pair_at(int index, bool gpu, const struct check **c, struct subject *s);
int pair_count(bool gpu);
bool is_naive(const struct subject *s); /* step 01, whose lesson it is to fail */
/* x: (rows, cols), the check's numbers. */
void check_fill(const struct check *c, void *x, enum dtype dtype, int64_t rows, int64_t cols);
/*
 * All problems of a check, until one fails: verify_softmax on the result, guard bands, and a zeroed workspace. With TESTS_SMALL in
 * the environment, which is for sanitizers and their fiftyfold time, only its first problem and those of up to 10000 elements.
 */
struct outcome check_run(const struct check *c, const struct subject *s);
struct mutant; /* tests/mutants/mutants.h */
const struct mutant *mutant_at(int index, bool gpu); /* the index-th that runs there; NULL when there are fewer */
/* What is wrong when the check named for a mutant lets it pass, or rejects the step that it mimics; NULL when all is well. */
const char *mutant_escapes(const struct mutant *m);
/* The same for one given x, (rows, cols) in host memory; y, of the same size in host memory, takes the result. */
struct outcome subject_judge(const struct subject *s, const struct problem *p, const void *x, void *y);

#endif

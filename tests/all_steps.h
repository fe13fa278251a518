/* Every step, as its own main.c describes it: the tests hold a step to the very claims that its program makes. */
#ifndef ALL_STEPS_H
#define ALL_STEPS_H

#include "harness.h"

const struct device *device_of(bool gpu);

/* NULL when there is no such step. number: 0, 1, 2, ... in the order of the ladder. */
const struct softmax_step *step_at(int number);
const struct softmax_step *step_named(const char *name);

/* One implementation to be tested: a step for one type of element on one kind of device. */
enum { MAX_SUBJECTS = 32 };

struct subject {
    const struct softmax_step *step;
    enum dtype dtype;
    bool gpu;
};

/* The index-th implementation there is for this kind of device; false when there are fewer. */
bool subject_at(struct subject *s, int index, bool gpu);
int subject_count(bool gpu);
/* Those for one type of element, up to MAX_SUBJECTS. Returns how many. */
int subjects_of(struct subject *subjects, enum dtype dtype, bool gpu);
bool subject_exists(const struct subject *s);
/* "02_safe_softmax fp32 on the CPU" */
const char *subject_name(const struct subject *s);
struct rounding subject_rounding(const struct subject *s);
/* y, x: where the device can reach them. */
void subject_run(const struct subject *s, void *y, const void *x, int64_t rows, int64_t cols, void *workspace);

/* ---- the same for attention */

const struct attention_step *attention_step_at(int number);
const struct attention_step *attention_step_named(const char *name);

struct attention_subject {
    const struct attention_step *step;
    enum dtype dtype;
    bool gpu;
};

/* TESTS_STEPS in the environment, such as "12 16", leaves only steps whose names begin with these numbers. */
bool step_is_chosen(const char *name);
/* As for softmax, of the steps that are chosen. */
bool attention_subject_at(struct attention_subject *s, int index, bool gpu);
int attention_subject_count(bool gpu);
/* Those for one type of element, up to MAX_SUBJECTS. Returns how many. */
int attention_subjects_of(struct attention_subject *subjects, enum dtype dtype, bool gpu);
bool attention_subject_exists(const struct attention_subject *s);
const char *attention_subject_name(const struct attention_subject *s);
struct attention_rounding attention_subject_rounding(const struct attention_subject *s);
bool attention_subject_takes(const struct attention_subject *s, int64_t dim);
const char *attention_subject_missing(const struct attention_subject *s); /* why it cannot run here; NULL: it can */
/* Bytes of workspace, zeroed, that a GPU's attention_subject_run wants. */
size_t attention_subject_workspace(const struct attention_subject *s, struct attention p);
/* All tensors: where the device can reach them. lse may be NULL. The stream is for a GPU. */
void attention_subject_run(const struct attention_subject *s, void *O, float *lse, const void *Q, const void *K, const void *V,
                           struct attention p, void *workspace, cudaStream_t stream);

#endif

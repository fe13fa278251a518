/* Broken softmaxes, each a mistake that somebody made. The tests pass only if every one of them is caught. */
#ifndef MUTANTS_H
#define MUTANTS_H

#include "../../common/harness/harness.h"

#ifdef __cplusplus
extern "C" {
#endif

struct mutant {
    struct softmax_step step; /* its function; name is that of the file */
    const char *file;         /* under tests/mutants */
    const char *mimics;       /* the step that it would be without its mistake, and whose claims it is held to */
    const char *caught_by;    /* the check that it must fail */
    enum dtype dtype;
    bool gpu;
};

extern const struct mutant mutants[];
extern const int mutant_count;

softmax_cpu_fn no_maximum, maximum_from_zero, maximum_from_tiny, tile_maximum, tail_without_maximum, sentinel_5e4, sentinel_1e30;
softmax_cpu_fn sum_not_rescaled, log_sum_exp_overflow, empty_merge, unguarded_start, nan_swallowed;
softmax_cpu_fn last_column_dropped, last_tile_dropped, wide_block, padded_with_zero, wrong_stride, one_past_the_end,
    whole_vectors_only;
softmax_cpu_fn normalised_twice, fast_math_exp, one_chain, all_zeros, uniform, all_nan, stale_output;
softmax_fp16_cpu_fn fp16_sum;

#ifdef USE_CUDA
softmax_gpu_fn ragged_threads_return, last_pack_not_written, launch_refused, no_barrier;
#endif

#ifdef __cplusplus
}
#endif
#endif

/* The table of all mutants, in the order of `make bug`. */
#include "mutants.h"
#include "steps.h"

#define CPU(f, mimics, check) { { .name = #f, .cpu = f }, "tests/mutants/" #f ".c", mimics, check, FP32, false }
#define CPU_FP16(f, mimics, check) { { .name = #f, .cpu_fp16 = f }, "tests/mutants/" #f ".c", mimics, check, FP16, false }
#define ON_GPU(f, mimics, check) { { .name = #f, .gpu = GPU(f) }, "tests/mutants/" #f ".cu", mimics, check, FP32, true }

const struct mutant mutants[] = {
    /* the maximum */
    CPU(no_maximum, "02_safe_softmax", "rising"),
    CPU(maximum_from_zero, "02_safe_softmax", "far"),
    CPU(maximum_from_tiny, "02_safe_softmax", "far"),
    CPU(sentinel_5e4, "02_safe_softmax", "far below"),
    CPU(sentinel_1e30, "02_safe_softmax", "far below"),
    CPU(tile_maximum, "03_online_softmax", "falling"),
    CPU(tail_without_maximum, "02_safe_softmax", "maximum anywhere"),
    /* the merge */
    CPU(sum_not_rescaled, "03_online_softmax", "rising"),
    CPU(unguarded_start, "03_online_softmax", "masked start"),
    CPU(empty_merge, "03_online_softmax", "shapes"),
    CPU(log_sum_exp_overflow, "03_online_softmax", "rising"),
    CPU(nan_swallowed, "02_safe_softmax", "NaN rows"),
    /* where a row ends */
    CPU(last_column_dropped, "02_safe_softmax", "ordinary"),
    CPU(last_tile_dropped, "02_safe_softmax", "shapes"),
    CPU(wide_block, "02_safe_softmax", "shapes"),
    CPU(padded_with_zero, "02_safe_softmax", "shapes"),
    CPU(wrong_stride, "02_safe_softmax", "shapes"),
    CPU(one_past_the_end, "02_safe_softmax", "ordinary"),
    CPU(whole_vectors_only, "02_safe_softmax", "shapes"),
    /* arithmetic */
    CPU(normalised_twice, "02_safe_softmax", "ordinary"),
    CPU(fast_math_exp, "02_safe_softmax", "ordinary"),
    CPU(one_chain, "05_block_softmax", "drifting"),
    CPU_FP16(fp16_sum, "07_narrow_softmax", "long rows"),
    /* no result at all */
    CPU(all_zeros, "02_safe_softmax", "ordinary"),
    CPU(uniform, "02_safe_softmax", "ordinary"),
    CPU(all_nan, "02_safe_softmax", "ordinary"),
    CPU(stale_output, "02_safe_softmax", "ordinary"),
    /* on a GPU; without CUDA they keep their numbers, and have no function */
    ON_GPU(ragged_threads_return, "05_block_softmax", "shapes"),
    ON_GPU(last_pack_not_written, "07_narrow_softmax", "shapes"),
    ON_GPU(launch_refused, "05_block_softmax", "ordinary"),
    ON_GPU(no_barrier, "05_block_softmax", "shapes"),
};
const int mutant_count = sizeof mutants / sizeof mutants[0];

/* The table of all broken attentions, in the order of `make bug`. */
#include "attention.h"

#define CPU(f, mimics, check) { { .name = #f, .cpu = f }, "tests/mutants/" #f ".c", mimics, check }

const struct attention_mutant attention_mutants[] = {
    /* the maximum */
    CPU(attention_no_maximum, "11_standard_attention", "rising"),
    CPU(attention_maximum_from_zero, "13_fused_attention", "adversarial"),
    CPU(attention_sentinel, "13_fused_attention", "far below"),
    CPU(attention_tile_maximum, "15_register_tiled_attention", "falling"),
    /* the merge */
    CPU(attention_output_not_rescaled, "15_register_tiled_attention", "ordinary"),
    CPU(attention_sum_not_rescaled, "15_register_tiled_attention", "ordinary"),
    CPU(attention_empty_merge, "15_register_tiled_attention", "lengths"),
    CPU(attention_split_without_weights, "15_register_tiled_attention", "ordinary"),
    /* a reference that is kept */
    CPU(attention_no_repair, "15_register_tiled_attention", "rising"),
    CPU(attention_late_repair, "15_register_tiled_attention", "slopes"),
    CPU(attention_repair_without_sum, "15_register_tiled_attention", "rising"),
    CPU(attention_repair_without_output, "15_register_tiled_attention", "rising"),
    CPU(attention_other_rows_reference, "15_register_tiled_attention", "adversarial"),
    /* which keys count */
    CPU(attention_last_tile_dropped, "15_register_tiled_attention", "ordinary"),
    CPU(attention_last_key_dropped, "13_fused_attention", "ordinary"),
    CPU(attention_padded_keys, "15_register_tiled_attention", "ordinary"),
    CPU(attention_no_mask, "13_fused_attention", "causal"),
    CPU(attention_key_too_many, "13_fused_attention", "causal"),
    CPU(attention_top_left, "13_fused_attention", "alignment"),
    CPU(attention_mask_by_adding, "15_register_tiled_attention", "rising"),
    CPU(attention_no_key_rows, "15_register_tiled_attention", "no keys"),
    CPU(attention_wrong_head, "13_fused_attention", "grouped heads"),
    /* arithmetic */
    CPU(attention_no_scale, "13_fused_attention", "ordinary"),
    CPU(attention_own_scale, "13_fused_attention", "scale"),
    CPU(attention_log2_lse, "15_register_tiled_attention", "ordinary"),
    CPU(attention_nan_swallowed, "13_fused_attention", "NaN queries"),
    CPU(attention_vote, "15_register_tiled_attention", "later keys"),
    CPU(attention_any_order, "15_register_tiled_attention", "same bits"),
    /* no result at all */
    CPU(attention_zeros, "11_standard_attention", "ordinary"),
    CPU(attention_mean, "11_standard_attention", "ordinary"),
    CPU(attention_nan, "11_standard_attention", "ordinary"),
    CPU(attention_stale, "11_standard_attention", "ordinary"),
};
const int attention_mutant_count = sizeof attention_mutants / sizeof attention_mutants[0];

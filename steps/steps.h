/*
 * Every function that a step defines, a step a line. Tests and programs link against these; the types are in common/types.h.
 */
#ifndef STEPS_H
#define STEPS_H

#include "types.h"

#ifdef __cplusplus
extern "C" {
#endif

struct softmax_step; /* what a step claims: harness.h has them, main.c fills them in */
struct attention_step;

/* GPU(f) is f in a CUDA build and NULL otherwise, so that no step needs an #ifdef. */
#ifdef USE_CUDA
#define GPU(f) f
#else
#define GPU(f) NULL
#endif

/* 00_ceilings: copy `bytes` bytes; read them, and return the sum of their words, or on a GPU, where there may be two tensors
   of them, store a thread's sum if it is `wanted`; or do so many rounds of arithmetic, and return the number of operations */
void copy_cpu(void *y, const void *x, size_t bytes);
void copy_gpu(void *y, const void *x, size_t bytes, cudaStream_t stream);
void copy_cached_cpu(void *y, const void *x, size_t bytes);
uint64_t read_cpu(const void *x, size_t bytes);
void read_gpu(uint32_t *found, const void *x, const void *y, size_t bytes, uint32_t wanted, cudaStream_t stream);
double fma_cpu(int64_t rounds);                              double fma_gpu(float *out, int64_t rounds, cudaStream_t stream);
double exp_cpu(int64_t rounds);                              double exp_gpu(float *out, int64_t rounds, cudaStream_t stream);
/* 01_naive_softmax */
extern const struct softmax_step naive_softmax;
softmax_cpu_fn naive_softmax_cpu;               softmax_gpu_fn naive_softmax_gpu;
softmax_fp16_cpu_fn naive_softmax_fp16_cpu;     softmax_fp16_gpu_fn naive_softmax_fp16_gpu;
/* 02_safe_softmax */
extern const struct softmax_step safe_softmax;
softmax_cpu_fn safe_softmax_cpu;                softmax_gpu_fn safe_softmax_gpu;
/* 03_online_softmax */
extern const struct softmax_step online_softmax;
softmax_cpu_fn online_softmax_cpu;              softmax_gpu_fn online_softmax_gpu;
/* 04_vector_softmax */
extern const struct softmax_step vector_softmax;
softmax_cpu_fn vector_softmax_cpu;              softmax_gpu_fn vector_softmax_gpu;
/* 05_block_softmax */
extern const struct softmax_step block_softmax;
softmax_cpu_fn block_softmax_cpu;               softmax_gpu_fn block_softmax_gpu;
/* 06_resident_softmax */
extern const struct softmax_step resident_softmax;
softmax_cpu_fn resident_softmax_cpu;            softmax_gpu_fn resident_softmax_gpu;
/* 07_narrow_softmax */
extern const struct softmax_step narrow_softmax;
softmax_cpu_fn narrow_softmax_cpu;              softmax_gpu_fn narrow_softmax_gpu;
softmax_fp16_cpu_fn narrow_softmax_fp16_cpu;    softmax_fp16_gpu_fn narrow_softmax_fp16_gpu;
softmax_bf16_cpu_fn narrow_softmax_bf16_cpu;    softmax_bf16_gpu_fn narrow_softmax_bf16_gpu;
/* 08_shelved_softmax */
extern const struct softmax_step shelved_softmax;
softmax_gpu_fn shelved_softmax_gpu;
softmax_fp16_gpu_fn shelved_softmax_fp16_gpu; softmax_bf16_gpu_fn shelved_softmax_bf16_gpu;
/* 09_cluster_softmax */
extern const struct softmax_step cluster_softmax;
softmax_gpu_fn cluster_softmax_gpu;
softmax_fp16_gpu_fn cluster_softmax_fp16_gpu;   softmax_bf16_gpu_fn cluster_softmax_bf16_gpu;
/* 10_split_softmax */
extern const struct softmax_step split_softmax;
softmax_cpu_fn split_softmax_cpu;               softmax_gpu_fn split_softmax_gpu;
softmax_fp16_cpu_fn split_softmax_fp16_cpu;     softmax_fp16_gpu_fn split_softmax_fp16_gpu;
softmax_bf16_cpu_fn split_softmax_bf16_cpu;     softmax_bf16_gpu_fn split_softmax_bf16_gpu;
workspace_fn split_softmax_workspace;
/* 11_standard_attention */
extern const struct attention_step standard_attention;
attention_cpu_fn standard_attention_cpu;        attention_gpu_fn standard_attention_gpu;
attention_workspace_fn standard_attention_workspace;
/* 12_library_attention */
extern const struct attention_step library_attention;
attention_cpu_fn library_attention_cpu;         attention_gpu_fn library_attention_gpu;
attention_fp16_gpu_fn library_attention_fp16_gpu; attention_bf16_gpu_fn library_attention_bf16_gpu;
attention_workspace_fn library_attention_workspace;
/* 13_fused_attention */
extern const struct attention_step fused_attention;
attention_cpu_fn fused_attention_cpu;           attention_gpu_fn fused_attention_gpu;
/* 14_flash_attention */
extern const struct attention_step flash_attention;
attention_cpu_fn flash_attention_cpu;           attention_gpu_fn flash_attention_gpu;
attention_shared_fn flash_attention_shared;
/* 15_register_tiled_attention */
extern const struct attention_step register_tiled_attention;
attention_cpu_fn register_tiled_attention_cpu;           attention_gpu_fn register_tiled_attention_gpu;
attention_shared_fn register_tiled_attention_shared;
/* 16_narrow_attention */
extern const struct attention_step narrow_attention;
attention_fp16_gpu_fn narrow_attention_fp16_gpu; attention_bf16_gpu_fn narrow_attention_bf16_gpu;
/* 17_fragment_attention */
extern const struct attention_step fragment_attention;
attention_fp16_gpu_fn fragment_attention_fp16_gpu; attention_bf16_gpu_fn fragment_attention_bf16_gpu;
/* 18_tensor_core_attention */
extern const struct attention_step tensor_core_attention;
attention_fp16_gpu_fn tensor_core_attention_fp16_gpu; attention_bf16_gpu_fn tensor_core_attention_bf16_gpu;
/* 19_swizzled_attention */
extern const struct attention_step swizzled_attention;
attention_fp16_gpu_fn swizzled_attention_fp16_gpu; attention_bf16_gpu_fn swizzled_attention_bf16_gpu;
/* 20_pipelined_attention */
extern const struct attention_step pipelined_attention;
attention_fp16_gpu_fn pipelined_attention_fp16_gpu; attention_bf16_gpu_fn pipelined_attention_bf16_gpu;
/* 21_wide_attention */
extern const struct attention_step wide_attention;
attention_fp16_gpu_fn wide_attention_fp16_gpu; attention_bf16_gpu_fn wide_attention_bf16_gpu;
/* 22_folded_attention */
extern const struct attention_step folded_attention;
attention_fp16_gpu_fn folded_attention_fp16_gpu; attention_bf16_gpu_fn folded_attention_bf16_gpu;
/* 23_lean_attention */
extern const struct attention_step lean_attention;
attention_fp16_gpu_fn lean_attention_fp16_gpu; attention_bf16_gpu_fn lean_attention_bf16_gpu;
/* 24_boxed_attention */
extern const struct attention_step boxed_attention;
attention_fp16_gpu_fn boxed_attention_fp16_gpu; attention_bf16_gpu_fn boxed_attention_bf16_gpu;
/* 25_copy_engine_attention */
extern const struct attention_step copy_engine_attention;
attention_fp16_gpu_fn copy_engine_attention_fp16_gpu; attention_bf16_gpu_fn copy_engine_attention_bf16_gpu;
/* 26_wgmma_attention */
extern const struct attention_step wgmma_attention;
attention_fp16_gpu_fn wgmma_attention_fp16_gpu; attention_bf16_gpu_fn wgmma_attention_bf16_gpu;
/* 27_warpgroup_attention */
extern const struct attention_step warpgroup_attention;
attention_fp16_gpu_fn warpgroup_attention_fp16_gpu; attention_bf16_gpu_fn warpgroup_attention_bf16_gpu;
/* 28_specialized_attention */
extern const struct attention_step specialized_attention;
attention_fp16_gpu_fn specialized_attention_fp16_gpu; attention_bf16_gpu_fn specialized_attention_bf16_gpu;
/* 29_overlapped_attention */
extern const struct attention_step overlapped_attention;
attention_fp16_gpu_fn overlapped_attention_fp16_gpu; attention_bf16_gpu_fn overlapped_attention_bf16_gpu;
/* 30_scheduled_attention */
extern const struct attention_step scheduled_attention;
attention_fp16_gpu_fn scheduled_attention_fp16_gpu; attention_bf16_gpu_fn scheduled_attention_bf16_gpu;
attention_workspace_fn scheduled_attention_workspace;
/* 31_persistent_attention */
extern const struct attention_step persistent_attention;
attention_fp16_gpu_fn persistent_attention_fp16_gpu; attention_bf16_gpu_fn persistent_attention_bf16_gpu;
attention_workspace_fn persistent_attention_workspace;
/* 32_optimistic_attention */
extern const struct attention_step optimistic_attention;
attention_fp16_gpu_fn optimistic_attention_fp16_gpu; attention_bf16_gpu_fn optimistic_attention_bf16_gpu;
attention_workspace_fn optimistic_attention_workspace;
attention_part_fp16_gpu_fn optimistic_attention_part_fp16_gpu; attention_part_bf16_gpu_fn optimistic_attention_part_bf16_gpu;
/* 33_decode_attention */
extern const struct attention_step decode_attention;
attention_cpu_fn decode_attention_cpu;               attention_gpu_fn decode_attention_gpu;
attention_fp16_cpu_fn decode_attention_fp16_cpu;     attention_fp16_gpu_fn decode_attention_fp16_gpu;
attention_bf16_cpu_fn decode_attention_bf16_cpu;     attention_bf16_gpu_fn decode_attention_bf16_gpu;
/* 34_split_attention */
extern const struct attention_step split_attention;
attention_cpu_fn split_attention_cpu;               attention_gpu_fn split_attention_gpu;
attention_fp16_cpu_fn split_attention_fp16_cpu;     attention_fp16_gpu_fn split_attention_fp16_gpu;
attention_bf16_cpu_fn split_attention_bf16_cpu;     attention_bf16_gpu_fn split_attention_bf16_gpu;
attention_pieces_fn split_attention_pieces;
attention_workspace_fn split_attention_scratch, split_attention_workspace;
/* 35_grouped_attention */
extern const struct attention_step grouped_attention;
attention_cpu_fn grouped_attention_cpu;               attention_gpu_fn grouped_attention_gpu;
attention_fp16_cpu_fn grouped_attention_fp16_cpu;     attention_fp16_gpu_fn grouped_attention_fp16_gpu;
attention_bf16_cpu_fn grouped_attention_bf16_cpu;     attention_bf16_gpu_fn grouped_attention_bf16_gpu;
attention_pieces_fn grouped_attention_pieces;
attention_workspace_fn grouped_attention_scratch, grouped_attention_workspace;
/* 36_merged_attention */
extern const struct attention_step merged_attention;
attention_gpu_fn merged_attention_gpu;
attention_fp16_gpu_fn merged_attention_fp16_gpu; attention_bf16_gpu_fn merged_attention_bf16_gpu;
attention_workspace_fn merged_attention_workspace;
/* 37_scored_attention */
extern const struct attention_step scored_attention;
attention_fp16_gpu_fn scored_attention_fp16_gpu; attention_bf16_gpu_fn scored_attention_bf16_gpu;
attention_workspace_fn scored_attention_workspace;
/* 38_valued_attention */
extern const struct attention_step valued_attention;
attention_fp16_gpu_fn valued_attention_fp16_gpu; attention_bf16_gpu_fn valued_attention_bf16_gpu;
attention_workspace_fn valued_attention_workspace;
/* 39_packed_attention */
extern const struct attention_step packed_attention;
attention_fp16_gpu_fn packed_attention_fp16_gpu; attention_bf16_gpu_fn packed_attention_bf16_gpu;
attention_workspace_fn packed_attention_workspace;
/* 40_streamed_attention */
extern const struct attention_step streamed_attention;
attention_fp16_gpu_fn streamed_attention_fp16_gpu; attention_bf16_gpu_fn streamed_attention_bf16_gpu;
attention_workspace_fn streamed_attention_workspace;
/* 41_paged_attention */
extern const struct attention_step paged_attention;
attention_paged_cpu_fn paged_attention_cpu;
attention_paged_fp16_cpu_fn paged_attention_fp16_cpu; attention_paged_fp16_gpu_fn paged_attention_fp16_gpu;
attention_paged_bf16_cpu_fn paged_attention_bf16_cpu; attention_paged_bf16_gpu_fn paged_attention_bf16_gpu;
attention_paged_pieces_fn paged_attention_pieces;
attention_paged_workspace_fn paged_attention_scratch, paged_attention_workspace;
/* 42_softmax_backward */
extern const struct softmax_step softmax_backward;
softmax_backward_cpu_fn softmax_backward_cpu;   softmax_backward_gpu_fn softmax_backward_gpu;
softmax_backward_fp16_cpu_fn softmax_backward_fp16_cpu;
softmax_backward_bf16_cpu_fn softmax_backward_bf16_cpu;
/* 43_attention_backward */
extern const struct attention_step attention_backward;
attention_backward_cpu_fn attention_backward_cpu; attention_backward_gpu_fn attention_backward_gpu;
attention_workspace_fn attention_backward_workspace;
/* 44_prepared_backward */
extern const struct attention_step prepared_backward;
attention_backward_gpu_fn prepared_backward_gpu;
attention_workspace_fn prepared_backward_workspace;
/* 45_walked_backward */
extern const struct attention_step walked_backward;
attention_backward_gpu_fn walked_backward_gpu;
attention_workspace_fn walked_backward_workspace;
attention_shared_fn walked_backward_shared;
/* 46_recomputed_backward */
extern const struct attention_step recomputed_backward;
attention_backward_cpu_fn recomputed_backward_cpu; attention_backward_gpu_fn recomputed_backward_gpu;
attention_workspace_fn recomputed_backward_scratch, recomputed_backward_workspace;
attention_shared_fn recomputed_backward_shared;
/* 47_joined_backward */
extern const struct attention_step joined_backward;
attention_backward_cpu_fn joined_backward_cpu; attention_backward_gpu_fn joined_backward_gpu;
attention_backward_fp16_cpu_fn joined_backward_fp16_cpu;
attention_backward_bf16_cpu_fn joined_backward_bf16_cpu;
attention_workspace_fn joined_backward_scratch, joined_backward_workspace;
attention_shared_fn joined_backward_shared;
/* 48_mixed_backward */
extern const struct attention_step mixed_backward;
attention_backward_fp16_gpu_fn mixed_backward_fp16_gpu; attention_backward_bf16_gpu_fn mixed_backward_bf16_gpu;
attention_workspace_fn mixed_backward_workspace;
/* 49_chunked_backward */
extern const struct attention_step chunked_backward;
attention_backward_fp16_gpu_fn chunked_backward_fp16_gpu; attention_backward_bf16_gpu_fn chunked_backward_bf16_gpu;
attention_workspace_fn chunked_backward_workspace;
/* 50_scores_backward */
extern const struct attention_step scores_backward;
attention_backward_fp16_gpu_fn scores_backward_fp16_gpu; attention_backward_bf16_gpu_fn scores_backward_bf16_gpu;
attention_workspace_fn scores_backward_workspace;
/* 51_matrix_backward */
extern const struct attention_step matrix_backward;
attention_backward_fp16_gpu_fn matrix_backward_fp16_gpu; attention_backward_bf16_gpu_fn matrix_backward_bf16_gpu;
attention_workspace_fn matrix_backward_workspace;
/* 52_tensor_core_backward */
extern const struct attention_step tensor_core_backward;
attention_backward_fp16_gpu_fn tensor_core_backward_fp16_gpu;
attention_backward_bf16_gpu_fn tensor_core_backward_bf16_gpu;
attention_workspace_fn tensor_core_backward_workspace;
/* 53_paired_backward */
extern const struct attention_step paired_backward;
attention_backward_fp16_gpu_fn paired_backward_fp16_gpu;
attention_backward_bf16_gpu_fn paired_backward_bf16_gpu;
attention_workspace_fn paired_backward_workspace;
/* 54_coalesced_backward */
extern const struct attention_step coalesced_backward;
attention_backward_fp16_gpu_fn coalesced_backward_fp16_gpu;
attention_backward_bf16_gpu_fn coalesced_backward_bf16_gpu;
attention_workspace_fn coalesced_backward_workspace;
/* 55_staged_backward */
extern const struct attention_step staged_backward;
attention_backward_fp16_gpu_fn staged_backward_fp16_gpu;
attention_backward_bf16_gpu_fn staged_backward_bf16_gpu;
attention_workspace_fn staged_backward_workspace;
/* 56_sectioned_backward */
extern const struct attention_step sectioned_backward;
attention_backward_fp16_gpu_fn sectioned_backward_fp16_gpu; attention_backward_bf16_gpu_fn sectioned_backward_bf16_gpu;
attention_workspace_fn sectioned_backward_workspace;
/* 57_filled_backward */
extern const struct attention_step filled_backward;
attention_backward_fp16_gpu_fn filled_backward_fp16_gpu; attention_backward_bf16_gpu_fn filled_backward_bf16_gpu;
attention_workspace_fn filled_backward_workspace;
/* 58_boxed_backward */
extern const struct attention_step boxed_backward;
attention_backward_fp16_gpu_fn boxed_backward_fp16_gpu; attention_backward_bf16_gpu_fn boxed_backward_bf16_gpu;
attention_workspace_fn boxed_backward_workspace;
/* 59_copy_engine_backward */
extern const struct attention_step copy_engine_backward;
attention_backward_fp16_gpu_fn copy_engine_backward_fp16_gpu; attention_backward_bf16_gpu_fn copy_engine_backward_bf16_gpu;
attention_workspace_fn copy_engine_backward_workspace;
/* 60_square_backward */
extern const struct attention_step square_backward;
attention_backward_fp16_gpu_fn square_backward_fp16_gpu; attention_backward_bf16_gpu_fn square_backward_bf16_gpu;
attention_workspace_fn square_backward_workspace;
/* 61_values_backward */
extern const struct attention_step values_backward;
attention_backward_fp16_gpu_fn values_backward_fp16_gpu; attention_backward_bf16_gpu_fn values_backward_bf16_gpu;
attention_workspace_fn values_backward_workspace;
/* 62_warpgroup_backward */
extern const struct attention_step warpgroup_backward;
attention_backward_fp16_gpu_fn warpgroup_backward_fp16_gpu; attention_backward_bf16_gpu_fn warpgroup_backward_bf16_gpu;
attention_workspace_fn warpgroup_backward_workspace;
/* 63_across_backward */
extern const struct attention_step across_backward;
attention_backward_fp16_gpu_fn across_backward_fp16_gpu; attention_backward_bf16_gpu_fn across_backward_bf16_gpu;
attention_workspace_fn across_backward_workspace;
/* 64_specialized_backward */
extern const struct attention_step specialized_backward;
attention_backward_fp16_gpu_fn specialized_backward_fp16_gpu; attention_backward_bf16_gpu_fn specialized_backward_bf16_gpu;
attention_workspace_fn specialized_backward_workspace;
/* 65_bulk_add_backward */
extern const struct attention_step bulk_add_backward;
attention_backward_fp16_gpu_fn bulk_add_backward_fp16_gpu; attention_backward_bf16_gpu_fn bulk_add_backward_bf16_gpu;
attention_workspace_fn bulk_add_backward_workspace;
/* 66_hopper_backward */
extern const struct attention_step hopper_backward;
attention_backward_fp16_gpu_fn hopper_backward_fp16_gpu; attention_backward_bf16_gpu_fn hopper_backward_bf16_gpu;
attention_workspace_fn hopper_backward_workspace;
/* 67_ordered_backward */
extern const struct attention_step ordered_backward;
attention_backward_fp16_gpu_fn ordered_backward_fp16_gpu; attention_backward_bf16_gpu_fn ordered_backward_bf16_gpu;
attention_workspace_fn ordered_backward_workspace;
/* 68_ring_attention */
extern const struct attention_step ring_attention;
attention_cpu_fn ring_attention_cpu;
attention_fp16_gpu_fn ring_attention_fp16_gpu; attention_bf16_gpu_fn ring_attention_bf16_gpu;
/* 69_zigzag_ring */
extern const struct attention_step zigzag_ring;
attention_cpu_fn zigzag_ring_cpu;
attention_fp16_gpu_fn zigzag_ring_fp16_gpu; attention_bf16_gpu_fn zigzag_ring_bf16_gpu;
/* 70_overlapped_ring */
extern const struct attention_step overlapped_ring;
attention_cpu_fn overlapped_ring_cpu;
attention_fp16_gpu_fn overlapped_ring_fp16_gpu; attention_bf16_gpu_fn overlapped_ring_bf16_gpu;

#ifdef __cplusplus
}
#endif
#endif

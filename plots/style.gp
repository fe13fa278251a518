# One look for every plot. A light card, so that it reads the same in print, on a white page and on a dark one.
# Colours: Okabe and Ito's, which colour-blind readers can tell apart; warm for the steps that make extra trips, cold for
# those that avoid them. Markers differ as well. Step N is line type N in every plot;
# attention begins again with the colours of softmax, since the two meet in one plot alone, far apart.

ink = "#222222"
quiet = "#555555"
faint = "#8a8a8a"
card = "#fcfcfa"

set linetype 1 lc rgb "#e69f00" lw 2 pt 5 ps 0.8                # 01_naive_softmax
set linetype 2 lc rgb "#d55e00" lw 2 pt 9 ps 1.0                # 02_safe_softmax
set linetype 3 lc rgb "#cc79a7" lw 2 pt 11 ps 1.0               # 03_online_softmax
set linetype 4 lc rgb "#999933" lw 2 pt 7 ps 0.8                # 04_vector_softmax
set linetype 5 lc rgb "#56b4e9" lw 2 pt 13 ps 1.1               # 05_block_softmax
set linetype 6 lc rgb "#0072b2" lw 2 pt 7 ps 0.8                # 06_resident_softmax
set linetype 7 lc rgb "#5e4fa2" lw 2 pt 5 ps 0.8                # 07_narrow_softmax
set linetype 8 lc rgb "#882255" lw 2 pt 11 ps 1.0               # 08_shelved_softmax
set linetype 9 lc rgb "#44aa99" lw 2 pt 9 ps 1.0                # 09_cluster_softmax
set linetype 10 lc rgb "#009e73" lw 2 pt 15 ps 0.8              # 10_split_softmax
set linetype 11 lc rgb "#e69f00" lw 2 pt 5 ps 0.8               # 11_standard_attention: and the same again
set linetype 12 lc rgb "#d55e00" lw 2 pt 9 ps 1.0               # 12_library_attention
set linetype 13 lc rgb "#cc79a7" lw 2 pt 11 ps 1.0              # 13_fused_attention
set linetype 14 lc rgb "#999933" lw 2 pt 7 ps 0.8               # 14_flash_attention
set linetype 15 lc rgb "#56b4e9" lw 2 pt 13 ps 1.1              # 15_register_tiled_attention
set linetype 16 lc rgb "#5e4fa2" lw 2 pt 9 ps 1.0               # 16_narrow_attention
set linetype 17 lc rgb "#8c6d1f" lw 2 pt 5 ps 0.8               # 17_fragment_attention
set linetype 18 lc rgb "#0072b2" lw 2 pt 7 ps 0.8               # 18_tensor_core_attention
set linetype 19 lc rgb "#44aa99" lw 2 pt 9 ps 1.0               # 19_swizzled_attention
set linetype 20 lc rgb "#117733" lw 2 pt 11 ps 1.0              # 20_pipelined_attention
set linetype 21 lc rgb "#cc79a7" lw 2 pt 7 ps 0.8               # 21_wide_attention
set linetype 22 lc rgb "#d55e00" lw 2 pt 13 ps 1.1              # 22_folded_attention
set linetype 23 lc rgb "#009e73" lw 2 pt 15 ps 0.8              # 23_lean_attention
set linetype 24 lc rgb "#117733" lw 2 pt 9 ps 1.0               # 24_boxed_attention
set linetype 25 lc rgb "#aa4499" lw 2 pt 7 ps 0.8               # 25_copy_engine_attention
set linetype 26 lc rgb "#56b4e9" lw 2 pt 11 ps 1.0              # 26_wgmma_attention
set linetype 27 lc rgb "#5e4fa2" lw 2 pt 5 ps 0.8               # 27_warpgroup_attention
set linetype 28 lc rgb "#332288" lw 2 pt 13 ps 1.1              # 28_specialized_attention
set linetype 29 lc rgb "#882255" lw 2 pt 9 ps 1.0               # 29_overlapped_attention
set linetype 30 lc rgb "#999933" lw 2 pt 7 ps 1.0               # 30_scheduled_attention
set linetype 31 lc rgb "#8c6d1f" lw 2 pt 11 ps 1.0              # 31_persistent_attention
set linetype 32 lc rgb "#c2185b" lw 2 pt 13 ps 1.1              # 32_optimistic_attention
set linetype 33 lc rgb "#e69f00" lw 2 pt 5 ps 0.8               # 33_decode_attention: and the same again
set linetype 34 lc rgb "#0072b2" lw 2 pt 7 ps 0.8               # 34_split_attention
set linetype 35 lc rgb "#009e73" lw 2 pt 15 ps 0.8              # 35_grouped_attention
set linetype 36 lc rgb "#999933" lw 2 pt 13 ps 1.1              # 36_merged_attention
set linetype 37 lc rgb "#882255" lw 2 pt 5 ps 0.8               # 37_scored_attention
set linetype 38 lc rgb "#56b4e9" lw 2 pt 15 ps 0.8              # 38_valued_attention
set linetype 39 lc rgb "#d55e00" lw 2 pt 9 ps 1.0               # 39_packed_attention
set linetype 40 lc rgb "#5e4fa2" lw 2 pt 7 ps 0.8               # 40_streamed_attention
set linetype 41 lc rgb "#cc79a7" lw 2 pt 11 ps 1.0              # 41_paged_attention
set linetype 42 lc rgb "#e69f00" lw 2 pt 5 ps 0.8               # 42_softmax_backward: and the same again
set linetype 43 lc rgb "#0072b2" lw 2 pt 7 ps 0.8               # 43_attention_backward
set linetype 44 lc rgb "#882255" lw 2 pt 9 ps 1.0               # 44_prepared_backward
set linetype 45 lc rgb "#56b4e9" lw 2 pt 5 ps 0.8               # 45_walked_backward
set linetype 46 lc rgb "#009e73" lw 2 pt 15 ps 0.8              # 46_recomputed_backward
set linetype 47 lc rgb "#aa4499" lw 2 pt 13 ps 1.1              # 47_joined_backward
set linetype 48 lc rgb "#117733" lw 2 pt 5 ps 0.8               # 48_mixed_backward
set linetype 49 lc rgb "#332288" lw 2 pt 9 ps 1.0               # 49_chunked_backward
set linetype 50 lc rgb "#88ccee" lw 2 pt 7 ps 0.8               # 50_scores_backward
set linetype 51 lc rgb "#ddcc77" lw 2 pt 15 ps 0.8              # 51_matrix_backward
set linetype 52 lc rgb "#cc79a7" lw 2 pt 11 ps 1.0              # 52_tensor_core_backward
set linetype 53 lc rgb "#d55e00" lw 2 pt 13 ps 1.1              # 53_paired_backward
set linetype 54 lc rgb "#44aa99" lw 2 pt 7 ps 0.8               # 54_coalesced_backward
set linetype 55 lc rgb "#5e4fa2" lw 2 pt 5 ps 0.8               # 55_staged_backward
set linetype 56 lc rgb "#117733" lw 2 pt 11 ps 1.0              # 56_sectioned_backward
set linetype 57 lc rgb "#332288" lw 2 pt 13 ps 1.1              # 57_filled_backward
set linetype 58 lc rgb "#88ccee" lw 2 pt 5 ps 0.8               # 58_boxed_backward
set linetype 59 lc rgb "#d55e00" lw 2 pt 13 ps 1.1              # 59_copy_engine_backward
set linetype 60 lc rgb "#ddcc77" lw 2 pt 9 ps 1.0               # 60_square_backward
set linetype 61 lc rgb "#117733" lw 2 pt 7 ps 0.8               # 61_values_backward
set linetype 62 lc rgb "#44aa99" lw 2 pt 7 ps 0.8               # 62_warpgroup_backward
set linetype 63 lc rgb "#5e4fa2" lw 2 pt 5 ps 0.8               # 63_across_backward
set linetype 64 lc rgb "#999933" lw 2 pt 9 ps 1.0               # 64_specialized_backward
set linetype 65 lc rgb "#882255" lw 2 pt 11 ps 1.0              # 65_bulk_add_backward
set linetype 66 lc rgb "#e69f00" lw 2 pt 5 ps 0.8               # 66_hopper_backward
set linetype 67 lc rgb "#56b4e9" lw 2 pt 9 ps 1.0               # 67_ordered_backward
set linetype 68 lc rgb "#0072b2" lw 2 pt 7 ps 0.8               # 68_ring_attention: and the same again
set linetype 69 lc rgb "#009e73" lw 2 pt 15 ps 0.8              # 69_zigzag_ring
set linetype 70 lc rgb "#cc79a7" lw 2 pt 11 ps 1.0              # 70_overlapped_ring
# 91 and up: what is no step
set linetype 91 lc rgb ink lw 1.5 pt 0 dt (10, 5)             # copy, and other limits
set linetype 92 lc rgb "#777777" lw 1.3 pt 4 ps 0.7 dt (4, 3) # torch.softmax, torch.sdpa-flash
set linetype 93 lc rgb "#777777" lw 1.3 pt 8 ps 0.8 dt (4, 3) # torch.compile, torch.sdpa-cudnn
set linetype 94 lc rgb "#777777" lw 1.3 pt 6 ps 0.7 dt (4, 3) # torch.sdpa-math
set linetype 95 lc rgb "#777777" lw 1.3 pt 12 ps 0.8 dt (4, 3) # flash-attention-3
set linetype cycle 95

set border 3 lc rgb faint
set tics nomirror textcolor rgb ink scale 0.5
set grid lc rgb "#e2e2de" lw 1 dt 1
set key off
set encoding utf8

# What draw.py gives: folder, of data files; picture, the picture's name or "dumb", to draw with characters, settings (lines
# NAME=VALUE), below, the line under the title. Texts are arguments, never commands: a device may be called anything.
has(name) = strstrt(settings, "\n".name."=") > 0
setting(name) = (setting_at = strstrt(settings, "\n".name."=") + strlen(name) + 2, \
                 settings[setting_at : setting_at + strstrt(settings[setting_at : *], "\n") - 2])
number(name) = setting(name) + 0
data(name) = folder."/".name
set datafile separator tab

in_text = picture eq "dumb"
if (in_text) {
    lines = number("lines")
    set terminal dumb 79 lines noenhanced
    set label 101 setting("title") at character 1, lines - 1 left
    set label 102 below at character 1, lines - 2 left
} else {
    height = has("height") ? number("height") : 600
    if (setting("kind") eq "svg") {
        set terminal svg size 960,height font 'DejaVu Sans,Verdana,Arial,sans-serif,13' background rgb card rounded
    } else {
        set terminal pngcairo size 1920,2*height fontscale 1.9 linewidth 2 dashlength 2 pointscale 2 \
            font 'DejaVu Sans,12' background rgb card rounded
    }
    set output picture
    set label 101 setting("title") at screen 0.03, 1 - 30.0 / height left noenhanced font ',16' textcolor rgb ink
    set label 102 below at screen 0.03, 1 - 60.0 / height left noenhanced textcolor rgb quiet
    set object 101 rectangle from screen 0,0 to screen 1,1 behind fillstyle empty border lc rgb '#d8d8d4'
}

# Lengths on the x axis: 1 Ki, 2 Ki, ...
if (has("tics")) {
    set xtics ("" 1)
    do for [i = 1 : number("tics")] { set xtics add (setting("ticname".i) number("tic".i)) }
}
prefix = ""
marks = 1
odd_text = has("rings") && number("rings") > 0 ? "rings: lengths that are not a power of two" : ""

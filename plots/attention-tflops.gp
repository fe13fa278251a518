# TFLOP/s of every attention step against the number of tokens, without a mask and with a causal one, under the ceiling of its type.
#   gnuplot -e "file='plots/recorded/M.tsv'; prefix='build/plots/M-'; dim='64'; dtype='bf16'" plots/attention-tflops.gp
#   gnuplot -e "file='plots/recorded/M.tsv'; dim='64'; term='dumb'" plots/attention-tflops.gp

load "plots/style.gp"
load query("attention-tflops")

title = "How fast is each attention, and how far from the ceiling?"

mask(i) = word(masks, i) eq "1" ? "causal" : "every query sees every key"
panels = words(masks)
set logscale x 2
set yrange [0 : 1.1 * top]
set xlabel "tokens of a sequence" textcolor rgb ink
set datafile separator tab

if (in_text) {
    causal = word(masks, 1)
    load query("attention-tflops")
    unset label; unset arrow; unset grid; unset key
    set xrange [shortest / 1.2 : longest * 1.2]
    set yrange [0 : 1.05 * top]
    eval text_heading(title, machine.": ".shape.(causal eq "1" ? ", causal" : ""), 24)
    set lmargin 8; set rmargin 3; set tmargin 4; set bmargin 4
    set xlabel "tokens\n".unit." of each step by its number; c: cuDNN, f: flash, m: math, of PyTorch; F: FlashAttention-3"
    letter(name) = name[1:1] eq "t" ? name[12:12] : name[1:1] eq "f" ? "F" : name[1:1] eq "0" ? name[2:2] : name[1:2]
    plot for [i = 1 : words(list)] $curves index i - 1 using 1:2 with lines lt 0, \
         for [i = 1 : words(list)] $curves index i - 1 using 1:2:(letter(word(list, i))) with labels, \
         (limit > 0 ? limit : NaN) with lines lt 0
    exit
}

# The ceilings: of the multiply-adds or the matrix products of this type, and of one exponential for every 4 dim FLOPs.
limit_name = dtype eq "fp32" ? "fma" : "matmul"
draw_limit(y, name) = sprintf("set arrow from graph 0, first %g to graph 1, first %g nohead back lt 21;", y, y) \
    .(name eq "" ? "" : sprintf("set label '%s, %.0f' at graph 0.01, first %g left offset 0,0.7 textcolor rgb ink;", name, y, y))

do for [format in formats] {
    eval picture(format, "attention-tflops-dim".dim)
    set multiplot
    do for [panel = 1 : panels] {
        causal = word(masks, panel)
        load query("attention-tflops")
        if (panel < panels) { unset label; unset arrow; eval lone }
        if (panel == 1) { eval heading(title, machine.": ".shape) } else { unset object }
        if (limit > 0) { eval draw_limit(limit, panel == 1 ? limit_name : "") }
        if (exps > 0 && exps < 1.1 * top) { eval draw_limit(exps, panel == 1 ? "exp, one a score" : "") }
        if (panel == 1) { set label odd_text at screen 0.97, screen 0.045 right textcolor rgb quiet }
        set xrange [shortest : 1.01 * longest]
        set label mask(panel) at graph 0.5, graph 1.04 center textcolor rgb quiet
        left = 0.085 + (panel - 1) * 0.34
        set lmargin at screen left; set rmargin at screen (panel == panels ? 0.715 : left + 0.29)
        set tmargin at screen 0.82; set bmargin at screen 0.12
        if (panel == 1) { set ylabel unit textcolor rgb ink } else { unset ylabel; set format y "" }
        plot for [i = 1 : words(list)] $curves index i - 1 using 1:2 with linespoints lt word(types, i) + 0, \
             $odd using 1:2:3 with points lc variable pt 6
        unset label; unset arrow
    }
    unset multiplot
    set output
    set format y "% h"
}

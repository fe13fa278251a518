# TFLOP/s of every attention step against the number of tokens, without a mask and with a causal one; the ceiling of its type.

folder = ARG1; picture = ARG2; settings = ARG3; below = ARG4
load "plots/style.gp"
panels = number("panels")
top = number("top")
limit = number("limit")
exps = number("exps")
unit = setting("unit")
set logscale x 2
set yrange [0 : 1.1 * top]
set xlabel "tokens of a sequence" textcolor rgb ink

if (in_text) {
    unset grid
    set xrange [number("p1shortest") / 1.2 : number("p1longest") * 1.2]
    set yrange [0 : 1.05 * top]
    set lmargin 8; set rmargin 3; set tmargin 4; set bmargin 4
    set xlabel "tokens\n".unit." by step; c: cuDNN, f: flash, m: math, of PyTorch; F: FlashAttention-3"
    plot for [i = 1 : number("p1curves")] data("p1curves") index i - 1 using 1:2 with lines lt 0, \
         for [i = 1 : number("p1curves")] data("p1curves") index i - 1 using 1:2:3 with labels, \
         (limit > 0 ? limit : NaN) with lines lt 0
    exit
}

# The ceiling of multiply-adds, or the matrix product by cuBLAS; and one exponential for every 4 dim FLOPs (a gradient: 10 dim).
set multiplot
do for [panel = 1 : panels] {
    p = "p".panel
    if (panel == panels) { prefix = p; load "plots/labels.gp" }
    if (panel > 1) { unset object }
    if (limit > 0) {
        set arrow from graph 0, first limit to graph 1, first limit nohead back lt 91
        if (panel == 1) {
            set label sprintf("%s, %.0f", setting("limitname"), limit) \
                at graph 0.01, first limit left offset 0,0.7 textcolor rgb ink
        }
    }
    if (exps > 0 && exps < 1.1 * top) {
        set arrow from graph 0, first exps to graph 1, first exps nohead back lt 91
        if (panel == 1) {
            set label sprintf("exp, one a score, %.0f", exps) at graph 0.01, first exps left offset 0,0.7 textcolor rgb ink
        }
    }
    if (panel < panels) {
        # Steps of which there is one point: its number beside it, left and right in turn.
        do for [i = 1 : number(p."lone")] {
            x = number(p."lonex".i); y = number(p."loney".i)
            if (i % 2) { set label setting(p."lone".i) at x, y right offset -0.9,0.05 noenhanced textcolor rgb ink } \
            else { set label setting(p."lone".i) at x, y left offset 0.9,0.05 noenhanced textcolor rgb ink }
        }
    }
    if (panel == 1) { set label odd_text at screen 0.97, screen 0.045 right textcolor rgb quiet }
    set xrange [number(p."shortest") : 1.01 * number(p."longest")]
    set label setting(p."mask") at graph 0.5, graph 1.04 center textcolor rgb quiet
    left = 0.085 + (panel - 1) * 0.34
    set lmargin at screen left; set rmargin at screen (panel == panels ? 0.715 : left + 0.29)
    set tmargin at screen 0.82; set bmargin at screen 0.12
    if (panel == 1) { set ylabel unit textcolor rgb ink } else { unset ylabel; set format y "" }
    plot for [i = 1 : number(p."curves")] data(p."curves") index i - 1 using 1:2 with linespoints lt number(p."curve".i), \
         data(p."rings") using 1:2:3 with points lc variable pt 6
    unset label; unset arrow
}
unset multiplot

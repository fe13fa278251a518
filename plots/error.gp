# Worst error against row length, or of attention against the number of tokens: what rounding does to each way of adding up a row.

folder = ARG1; picture = ARG2; settings = ARG3; below = ARG4
load "plots/style.gp"
load "plots/labels.gp"
attention = number("attention")
bits = number("bits")
epsilon = 2.0 ** -bits
shortest = number("shortest")
longest = number("longest")

set logscale x 2
set logscale y 10
set xrange [shortest : 1.01 * longest]
set yrange [number("low") : number("high")]
set format y "10^{%T}"
set xlabel attention ? "tokens of a sequence" : "columns (length of a row)" textcolor rgb ink
set ylabel "relative error" textcolor rgb ink
set lmargin at screen 0.09; set rmargin at screen attention ? 0.7 : 0.785; set tmargin at screen 0.84; set bmargin at screen 0.12
set arrow from shortest, epsilon to longest, epsilon nohead back lt 91
set label sprintf("machine epsilon of %s, 2^{-%d}", setting("dtype"), bits) \
    at longest, epsilon right offset -1,-0.8 textcolor rgb quiet
set label odd_text at screen 0.97, screen 0.045 right textcolor rgb quiet

plot for [i = 1 : number("curves")] data("curves") index i - 1 using 1:2 with linespoints lt number("curve".i), \
     data("rings") using 1:2:3 with points lc variable pt 6

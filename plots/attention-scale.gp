# Worst error of every attention step against the size of its scores: what it costs to store them in few bits.

folder = ARG1; picture = ARG2; settings = ARG3; below = ARG4
load "plots/style.gp"
load "plots/labels.gp"
bits = number("bits")
shortest = number("shortest")
longest = number("longest")
highest = number("high")
unit = 2.0 ** -bits
largest(x) = 5 * x # of about a million normal scores, x being their standard deviation
set logscale x 2
set logscale y 10
set xrange [shortest : 1.01 * longest]
set yrange [number("low") : highest]
set format y "10^{%T}"
set xlabel "standard deviation of the scores" textcolor rgb ink
set ylabel "worst error, over the largest of its row" textcolor rgb ink
set lmargin at screen 0.09; set rmargin at screen 0.7; set tmargin at screen 0.84; set bmargin at screen 0.12
set arrow from shortest, unit to longest, unit nohead back lt 91
set label sprintf("unit roundoff of %s, 2^{-%d}", setting("dtype"), bits) \
    at longest, unit right offset -1,-0.8 textcolor rgb quiet
set label "rising dashes: one rounding of the largest score" at longest, highest right offset -1,-0.8 textcolor rgb quiet
set label "thin: what the bound allows at that element" at longest, highest right offset -1,-2 textcolor rgb quiet
plot unit * largest(x) with lines lt 91 dt (3, 3), \
     for [i = 1 : number("curves")] data("curves") index i - 1 using 1:3 with lines lt number("curve".i) lw 0.8 dt 3, \
     for [i = 1 : number("curves")] data("curves") index i - 1 using 1:2 with linespoints lt number("curve".i)

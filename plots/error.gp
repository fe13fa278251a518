# Worst relative error against row length: what rounding does to each way of adding up a row.
#   gnuplot -e "file='plots/recorded/M.tsv'; prefix='build/plots/M-'" plots/error.gp

load "plots/style.gp"
load query("error")

eval heading("Who still adds up a long row right?", machine.": ".dtype.", the worst relative error of any element checked")
bits = dtype eq "fp16" ? 10 : dtype eq "bf16" ? 7 : 23
epsilon = 2.0 ** -bits

set logscale x 2
set logscale y 10
set xrange [shortest : longest]
set yrange [(lowest < epsilon ? lowest : epsilon) / 2.5 : (highest > epsilon ? highest : epsilon) * 2]
set format y "10^{%T}"
set xlabel "columns (length of a row)" textcolor rgb ink
set ylabel "relative error" textcolor rgb ink
set lmargin at screen 0.09; set rmargin at screen 0.785; set tmargin at screen 0.84; set bmargin at screen 0.12
set arrow from shortest, epsilon to longest, epsilon nohead back lt 7
set label sprintf("machine epsilon of %s, 2^{-%d}", dtype, bits) at longest, epsilon right offset -1,-0.8 textcolor rgb quiet
set label odd_text at screen 0.97, screen 0.045 right textcolor rgb quiet

set datafile separator tab
do for [format in formats] {
    eval picture(format, "error")
    plot for [i = 1 : words(list)] $curves index i - 1 using 1:2 with linespoints lt word(types, i) + 0, \
         $odd using 1:2:3 with points lc variable pt 6
    set output
}

# Worst relative error against row length: what rounding does to each way of adding up a row.
#   gnuplot -e "file='plots/recorded/M.tsv'; prefix='build/plots/M-'" plots/error.gp

load "plots/style.gp"
load query("error")

eval heading("Who still adds up a long row right?", machine.": ".shape.", worst relative error of any element checked")

epsilon = dtype eq "fp16" ? 2.0 ** -10 : dtype eq "bf16" ? 2.0 ** -7 : 2.0 ** -23
bottom = 10 ** floor(log10(lowest < epsilon ? lowest : epsilon))
top = 10 ** ceil(log10(highest > epsilon ? highest : epsilon))
set logscale x 2
set logscale y 10
set xrange [shortest : longest]
set yrange [bottom : top]
set format y "10^{%T}"
set xlabel "columns (length of a row)" textcolor rgb ink
set ylabel "relative error" textcolor rgb ink
set lmargin at screen 0.09; set rmargin at screen 0.80
set tmargin at screen 0.84; set bmargin at screen 0.12
set arrow from shortest, epsilon to longest, epsilon nohead back lt 7
set label sprintf("%s epsilon, 2^{%d}", dtype, log(epsilon) / log(2)) at shortest, epsilon left offset 1,-0.7 textcolor rgb quiet

set datafile separator tab
do for [format in formats] {
    eval picture(format, "error".(dtype eq "fp32" ? "" : "-".dtype))
    plot for [i = 1 : words(list)] $curves index i - 1 using 1:2 with linespoints lt word(types, i) + 0, \
         $odd using 1:2:3 with points lc variable pt 6
    set output
}

# Worst error against row length, or of attention against the number of tokens: what rounding does to each way of adding up a row.
#   gnuplot -e "file='plots/recorded/M.tsv'; prefix='build/plots/M-'" plots/error.gp
#   gnuplot -e "file='plots/recorded/M.tsv'; prefix='build/plots/M-'; part='attention'; dtype='bf16'" plots/error.gp

load "plots/style.gp"
attention = exists("part") && part eq "attention"
load query(attention ? "attention-error" : "error")

title = attention ? "How right is each attention?" : "Who still adds up a long row right?"
worst = attention ? "error of any element checked, over the largest of its row" : "relative error of any element checked"
eval heading(title, machine.": ".dtype.", the worst ".worst)
epsilon = 2.0 ** -bits

set logscale x 2
set logscale y 10
set xrange [shortest : 1.01 * longest]
set yrange [lowest : highest]
set format y "10^{%T}"
set xlabel attention ? "tokens of a sequence" : "columns (length of a row)" textcolor rgb ink
set ylabel "relative error" textcolor rgb ink
set lmargin at screen 0.09; set rmargin at screen attention ? 0.7 : 0.785; set tmargin at screen 0.84; set bmargin at screen 0.12
set arrow from shortest, epsilon to longest, epsilon nohead back lt 21
set label sprintf("machine epsilon of %s, 2^{-%d}", dtype, bits) at longest, epsilon right offset -1,-0.8 textcolor rgb quiet
set label odd_text at screen 0.97, screen 0.045 right textcolor rgb quiet

set datafile separator tab
do for [format in formats] {
    eval picture(format, attention ? "attention-error" : "error")
    plot for [i = 1 : words(list)] $curves index i - 1 using 1:2 with linespoints lt word(types, i) + 0, \
         $odd using 1:2:3 with points lc variable pt 6
    set output
}

# Effective bandwidth against row length: where each softmax wins, and where a second trip over a row stops being free.
#   gnuplot -e "file='plots/recorded/M.tsv'; prefix='build/plots/M-'; dtype='fp16'" plots/lengths.gp
# Lines join the lengths that are powers of two; other lengths are rings by themselves, since alignment sets them apart.

load "plots/style.gp"
load query("lengths")

eval heading("Where does each softmax win?", machine.": ".shape.(cliff_text eq "" || in_text ? "" : "; ".cliff_text))

set logscale x 2
set xrange [shortest : longest]
set yrange [0 : 1.04 * highest]
set xlabel "columns (length of a row)" textcolor rgb ink
set ylabel "effective bandwidth, GB/s" textcolor rgb ink
set lmargin at screen 0.09; set rmargin at screen 0.80
set tmargin at screen 0.78; set bmargin at screen 0.12

set datafile separator tab
do for [format in formats] {
    eval picture(format, "lengths".(dtype eq "fp32" ? "" : "-".dtype))
    plot for [i = 1 : words(list)] $curves index i - 1 using 1:2 with linespoints lt word(types, i) + 0, \
         $odd using 1:2:3 with points lc variable pt 6
    set output
}

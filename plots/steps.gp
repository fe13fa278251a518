# Effective bandwidth of every step at one shape, against a copy of the same bytes.
#   gnuplot -e "file='plots/recorded/M.tsv'; prefix='build/plots/M-'" plots/steps.gp

load "plots/style.gp"
load query("steps")

eval heading("How much of copy speed does each step reach?", machine.": ".shape)

set yrange [bars + 0.6 : 0.4]
set xrange [0 : 1.02 * top]
set xlabel "effective bandwidth, GB/s (x read once and y written once, over the time taken)" textcolor rgb ink
set ytics scale 0 noenhanced
set grid noytics
set lmargin at screen in_text ? 0.25 : 0.21; set rmargin at screen 0.97
set tmargin at screen 0.81; set bmargin at screen 0.12
set style fill solid 0.8 noborder
set arrow 1 from copy, graph 0 to copy, graph 1.02 nohead back lt 7
set label 1 copy_text at graph 1, graph 1.045 right textcolor rgb ink
set arrow 2 from graph 0.008, graph 1.02 to graph 0.008, graph 1.07 nohead lw 3 lc rgb ink
set label 2 "as its trips over memory predict" at graph 0.022, graph 1.045 left textcolor rgb quiet

set datafile separator tab
half = 0.36
do for [format in formats] {
    eval picture(format, "steps".(dtype eq "fp32" ? "" : "-".dtype))
    plot $bars using (0):1:(0):3:($1 - half):($1 + half):4:ytic(2) with boxxyerror lc variable, \
         $bars using 5:($1 - half - 0.06):(0):(2 * half + 0.12) with vectors nohead lw 3 lc rgb ink, \
         $bars using (0):1:6 with labels left offset 0.8,0 textcolor rgb ink noenhanced
    set output
}

# Time of every attention step at one shape, and beside it the bytes that the step says it must move. Logarithmic: a grid line is a factor of ten.
#   gnuplot -e "file='plots/recorded/M.tsv'; prefix='build/plots/M-'" plots/attention-steps.gp
#   gnuplot -e "file='plots/recorded/M.tsv'; term='dumb'" plots/attention-steps.gp

load "plots/style.gp"
load query("attention-steps")

title = "What does each attention cost, in time and in bytes?"
set yrange [(bars < 8 ? 8 : bars) + 0.6 : 0.4]
set logscale x 10
set grid noytics
set style fill solid 0.8 noborder
set datafile separator tab
set ytics scale 0 noenhanced

decade_under(x) = 10.0 ** floor(log10(x / 1.3))
ms_from = decade_under(fastest)
bytes_from = decade_under(least)

if (in_text) {
    # A line a bar: as many characters as make its share of the logarithmic axis.
    width = 18
    hashes(ms) = "##################"[1 : int(width * log(ms / ms_from) / log(slowest / ms_from) + 0.5)]
    eval text_heading(title, machine.": ".shape, 8 + bars)
    set lmargin 30; set rmargin 29; set tmargin 4; set bmargin 3
    set border 11; set yrange [bars + 0.5 : 0.5]; set y2range [bars + 0.5 : 0.5]; set y2tics scale 0; unset grid; unset xtics
    set xrange [ms_from : slowest]
    set label 103 "#: time (log)   P: as bytes, exps, products predict   %: of tightest ceiling" at character 1,1 left
    eval groups
    plot $bars using (1.001 * ms_from):1:(hashes($4)):ytic(2):y2tic(10) with labels left offset 1,0, $bars using 5:1:("P") with labels
    exit
}

half = 0.36
do for [format in formats] {
    eval picture(format, "attention-steps")
    set multiplot
    set tmargin at screen 0.81; set bmargin at screen 0.12
    eval heading(title, machine.": ".shape)
    eval groups
    set lmargin at screen 0.262; set rmargin at screen 0.415
    set xlabel "time, ms" textcolor rgb ink
    set format x "%g"
    set xrange [ms_from : slowest * 1.1]
    set arrow 101 from graph 0.012, graph 1.02 to graph 0.012, graph 1.07 nohead lw 3 lc rgb ink
    set label 103 "as its bytes, exps and products predict" at graph 0.05, graph 1.045 left textcolor rgb quiet
    plot $bars using (ms_from):1:(ms_from):4:($1 - half):($1 + half):3:ytic(2) with boxxyerror lc variable, \
         $bars using 5:($1 - half - 0.06):(0):(2 * half + 0.12) with vectors nohead lw 3 lc rgb ink, \
         $bars using (slowest * 1.1):1:8 with labels left offset 0.6,0 textcolor rgb ink noenhanced
    unset label; unset object
    set lmargin at screen 0.745; set rmargin at screen 0.905
    set xlabel "predicted bytes" textcolor rgb ink
    set format x "10^{%T}"
    set xrange [bytes_from : most * 1.1]
    set label 103 "Q, K, V, O once each" at graph 0.065, graph 1.045 left textcolor rgb quiet
    set format y ""
    plot $bars using (bytes_from):1:(bytes_from):6:($1 - half):($1 + half):3 with boxxyerror lc variable, \
         $bars using ($6 > 0 ? $7 : NaN):($1 - half - 0.06):(0):(2 * half + 0.12) with vectors nohead lw 3 lc rgb ink, \
         $bars using (most * 1.1):1:9 with labels left offset 0.6,0 textcolor rgb ink noenhanced
    unset label; unset object; set format y
    unset multiplot
    set output
}

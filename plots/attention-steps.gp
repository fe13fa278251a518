# Time of every attention step at one shape, and beside it the bytes that the step says it must move. The axes are logarithmic,
# where a bar would begin nowhere: dots, as far from each other as their ratio says. A grid line is a factor of ten.

folder = ARG1; picture = ARG2; settings = ARG3; below = ARG4
load "plots/style.gp"
bars = number("bars")
slowest = number("slowest")
most = number("most")

set yrange [(bars < 8 ? 8 : bars) + 0.6 : 0.4]
set logscale x 10
set grid noytics
set ytics scale 0 noenhanced
decade_under(x) = 10.0 ** floor(log10(x / 1.3))
ms_from = decade_under(number("fastest"))
bytes_from = decade_under(number("least"))

if (in_text) {
    # A line a step: as many characters as make its share of the logarithmic axis.
    width = 18
    place(ms) = int(width * log(ms / ms_from) / log(slowest / ms_from) + 0.5)
    dots(ms) = ". . . . . . . . . ."[1 : place(ms) - 1]."o"
    set lmargin 30; set rmargin 29; set tmargin 4; set bmargin 3
    set border 11; set yrange [bars + 0.5 : 0.5]; set y2range [bars + 0.5 : 0.5]; set y2tics scale 0; unset grid; unset xtics
    set xrange [ms_from : slowest]
    set label 103 "o: time (log)   P: as bytes, exps, products predict   %: of tightest ceiling" at character 1,1 left
} else {
    set multiplot
    set tmargin at screen 0.81; set bmargin at screen 0.12
    set lmargin at screen 0.27; set rmargin at screen 0.405
    set xlabel "time, ms" textcolor rgb ink
    set format x "%g"
    set xrange [ms_from : slowest * 1.3]
    set arrow 101 from graph 0.012, graph 1.022 to graph 0.012, graph 1.068 nohead lw 3 lc rgb ink
    set label 103 "as its bytes, exps and products predict" at graph 0.07, graph 1.045 left textcolor rgb quiet
}
do for [i = 1 : number("groups")] {
    set label 200 + i setting("groupname".i) at graph 0, first number("group".i) \
        right offset -1.2,0 noenhanced textcolor rgb quiet
}
if (in_text) {
    plot data("bars") using (1.001 * ms_from):1:(dots($4)):ytic(2):y2tic(10) with labels left offset 1,0, \
         data("bars") using 5:1:("P") with labels
    exit
}

# A thin line from the prediction to the dot; the tick of the prediction.
half = 0.36
plot data("bars") using 5:1:($4 - $5):(0) with vectors nohead lw 1 lc rgb faint, \
     data("bars") using 5:($1 - half):(0):(2 * half) with vectors nohead lw 3 lc rgb ink, \
     data("bars") using 4:1:3:ytic(2) with points pt 7 ps 1.1 lc variable, \
     data("bars") using (slowest * 1.3):1:8 with labels left offset 0.8,0 textcolor rgb ink noenhanced
unset label; unset object
set lmargin at screen 0.775; set rmargin at screen 0.905
set xlabel "predicted bytes" textcolor rgb ink
set format x "10^{%T}"
set xrange [bytes_from : most * 1.3]
set label 103 "Q, K, V, O once each" at graph 0.065, graph 1.045 left textcolor rgb quiet
set format y ""
plot data("bars") using ($6 > 0 ? $7 : NaN):1:($6 - $7):(0) with vectors nohead lw 1 lc rgb faint, \
     data("bars") using ($6 > 0 ? $7 : NaN):($1 - half):(0):(2 * half) with vectors nohead lw 3 lc rgb ink, \
     data("bars") using 6:1:3 with points pt 7 ps 1.1 lc variable, \
     data("bars") using (most * 1.3):1:9 with labels left offset 0.8,0 textcolor rgb ink noenhanced
unset multiplot

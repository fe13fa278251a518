# Effective bandwidth against row length: where each softmax wins, and where a second trip over a row stops being free.
# Lines join the lengths that are powers of two; other lengths are rings by themselves, since alignment sets them apart.

folder = ARG1; picture = ARG2; settings = ARG3; below = ARG4
load "plots/style.gp"
load "plots/labels.gp"
shortest = number("shortest")
longest = number("longest")
curves = number("curves")
if (number("log")) { set logscale y 10 }
set logscale x 2
set xrange [shortest : longest]
set yrange [number("low") : number("high")]
set xlabel "columns (length of a row)" textcolor rgb ink

if (in_text) {
    unset label; unset arrow; unset grid
    set label 101 setting("title") at character 1, lines - 1 left
    set label 102 below at character 1, lines - 2 left
    set xrange [shortest / 1.2 : longest * 1.2]
    set lmargin 8; set rmargin 3; set tmargin 4; set bmargin 4
    set xlabel "columns\nGB/s of each step by its number; c: copy, t: torch.softmax, T: torch.compile"
    plot for [i = 1 : curves] data("curves") index i - 1 using 1:2 with lines lt 0, \
         for [i = 1 : curves] data("curves") index i - 1 using 1:2:3 with labels
    exit
}

set label 102 below.(number("cliffs") ? "; ".setting("cliffsaid") : "")
do for [i = 1 : number("cliffs")] {
    at = number("cliff".i)
    set arrow from at, graph 0 to at, graph 1 nohead back lw 1 lc rgb faint dt (6, 4)
    set label setting("above".i)."\n".setting("under".i) at at, graph 1.075 center textcolor rgb quiet
}
set ylabel "effective bandwidth, GB/s" textcolor rgb ink
set lmargin at screen 0.09; set rmargin at screen 0.785; set tmargin at screen 0.78; set bmargin at screen 0.12
set label odd_text at screen 0.97, screen 0.045 right textcolor rgb quiet
plot for [i = 1 : curves] data("curves") index i - 1 using 1:2 with linespoints lt number("curve".i), \
     data("rings") using 1:2:3 with points lc variable pt 6

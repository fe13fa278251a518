# Roofline: what every step reaches, against the work that it does for each byte that it says it moves.

folder = ARG1; picture = ARG2; settings = ARG3; below = ARG4
load "plots/style.gp"
slope = number("slope")
ridge = number("ridge")
from_x = number("fromx")
to_x = number("tox")
from_y = number("fromy")
in_tflops = setting("unit") eq "TFLOP/s"

set logscale xy 10
set xrange [from_x : to_x]
set yrange [from_y : number("toy")]
set format x "%g"
set format y "%g"
set xlabel "FLOPs for each byte of predicted memory traffic" textcolor rgb ink
set ylabel setting("unit") textcolor rgb ink
set lmargin at screen 0.09; set rmargin at screen 0.655; set tmargin at screen 0.84; set bmargin at screen 0.12

# Under the slope memory limits, under a flat roof the arithmetic; they meet at a ridge. The text ends where the roof begins.
start = from_y / slope > from_x ? from_y / slope : from_x
middle = start ** 0.3 * number("firstridge") ** 0.7
set arrow from start, slope * start to ridge, slope * ridge nohead back lt 91
set label sprintf("copy, %.4g GB/s", 1000 * slope / (in_tflops ? 1 : 1000)) \
    at middle, slope * middle right offset -1.5,0.3 textcolor rgb ink

# Names without markers, which would look like points; a line leads from each to its point.
marks = 0
prefix = "right"
load "plots/labels.gp"
prefix = "left"
if (has("leftlabels")) { load "plots/labels.gp" }
set style textbox opaque margins 0.4,0.4 fillcolor rgb card noborder
if (has("beside")) {
    do for [i = 1 : number("beside")] {
        set label setting("btext".i) at number("bx".i), number("by".i) left noenhanced front boxed textcolor rgb ink offset 1,0
    }
}
plot data("roofs") using 1:2:(to_x - $1):(0) with vectors nohead lt 91, \
     data("roofs") using 1:(from_y):(0):($2 - from_y) with vectors nohead lw 1 lc rgb faint dt (2, 4), \
     data("roofs") using 1:2:(sprintf("%s, %.4g", strcol(3), $2)) with labels right offset -1,0.4 textcolor rgb ink, \
     data("roofs") using 1:(from_y):(sprintf("%.3g FLOP/B", $1)) with labels left offset 0.5,0.8 textcolor rgb quiet, \
     for [i = 1 : number("points")] data("points") every ::i-1::i-1 using 1:2 with points lt number("pt".i)

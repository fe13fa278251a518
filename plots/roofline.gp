# Roofline: what every step reaches, against the work that it does for each byte that it says it moves.
#   gnuplot -e "file='plots/recorded/M.tsv'; prefix='build/plots/M-'" plots/roofline.gp

load "plots/style.gp"
load query("roofline")

eval heading("What limits each step?", machine.": ".shape)
set logscale xy 10
set xrange [from_x : to_x]
set yrange [from_y : to_y]
set format x "%g"
set format y "%g"
set xlabel "FLOPs for each byte of predicted memory traffic" textcolor rgb ink
set ylabel unit textcolor rgb ink
set lmargin at screen 0.09; set rmargin at screen 0.675; set tmargin at screen 0.84; set bmargin at screen 0.12
set datafile separator tab

# Under the slope memory limits, under a flat roof the arithmetic; they meet at a ridge. The text ends where the roof begins.
start = from_y / slope > from_x ? from_y / slope : from_x
middle = sqrt(start * ridge)
set arrow from start, slope * start to ridge, slope * ridge nohead back lt 21
set label sprintf("copy, %.4g GB/s", 1000 * slope / (unit eq "TFLOP/s" ? 1 : 1000)) at middle, slope * middle \
    left offset 1,-0.3 textcolor rgb ink
do for [format in formats] {
    eval picture(format, "roofline")
    plot $roofs using 1:2:(to_x - $1):(0) with vectors nohead lt 21, \
         $roofs using 1:(from_y):(0):($2 - from_y) with vectors nohead lw 1 lc rgb faint dt (2, 4), \
         $roofs using 1:2:(sprintf("%s, %.4g", strcol(3), $2)) with labels right offset -1,0.2 textcolor rgb ink, \
         $roofs using 1:(from_y):(sprintf("%.3g FLOP/B", $1)) with labels left offset 0.5,0.8 textcolor rgb quiet, \
         $roofs using 1:2 with points pt 7 ps 0.6 lc rgb ink
    set output
}

# What the warps of a block do, and when: a debug build's marks, as `make timeline` leaves them.
#   gnuplot -e "file='build/timeline.txt'; prefix='build/plots/'; machine='NVIDIA H100'; shape='heads of 128'" plots/timeline.gp
# first, blocks: which blocks of keys are shown.

load "plots/style.gp"

title = "Softmax runs beside products"
if (!exists("machine")) machine = "a Hopper GPU"
if (!exists("shape")) shape = ""
if (!exists("first")) first = 10
if (!exists("blocks")) blocks = 8

set datafile missing "-"
set datafile commentschars "#"
set key off
stats file using 1:((valid(3)) ? $1 : NaN) every ::1 nooutput
groups = int(STATS_max_y) + 1
# The window: from where a block of warpgroup 0 begins to where another one ends.
start = 0; end = 0; period = 0
set table $none
plot file using (($1 == 0 && $2 == first) ? (start = $3) : 0):(($1 == 0 && $2 == first + blocks - 1) ? (end = $7) : 0) every ::1 with table
unset table
period = (end - start) / blocks

products = "#0072b2"; values = "#56b4e9"; softmax = "#d55e00"; second = "#e69f00"; issue = "#b5b5af"; copy = "#5e4fa2"
in_window(x) = x - start >= -period && x - start <= end - start + period
row(w) = 1.6 + 2.3 * w     # of a warpgroup: its products, and 0.9 below what its warps do
bottom = row(groups - 1) + 1.5

bar = "with boxxyerror fillstyle solid noborder"
before = NaN               # when the block before had been packed
remember(x) = (y = before, before = x, y)

do for [format in formats] {
    eval picture(format, "timeline")
    eval heading(title, sprintf("%s, step 14%s: blocks %d to %d of keys, of one tile. A block takes %.0f clocks", machine, \
                                shape eq "" ? "" : ", ".shape, first, first + blocks - 1, period))
    set lmargin at screen 0.175; set rmargin at screen 0.975; set tmargin at screen 0.80; set bmargin at screen 0.20
    set xrange [0 : end - start]
    set yrange [bottom : 0]
    set xlabel "clocks of the SM" textcolor rgb ink
    set grid noytics xtics
    unset ytics
    set label "copies begun of" at screen 0.165, first 0.2 right textcolor rgb quiet
    set label "K" at screen 0.165, first 0.5 right textcolor rgb ink
    set label "V" at screen 0.165, first 0.85 right textcolor rgb ink
    do for [w = 0 : groups - 1] {
        set label sprintf("warpgroup %d", w) at screen 0.165, first row(w) - 0.35 right textcolor rgb quiet
        set label "products under way" at screen 0.165, first row(w) right textcolor rgb ink
        set label "its warps" at screen 0.165, first row(w) + 0.9 right textcolor rgb ink
    }
    entry(i, x, text, colour) = sprintf("set object %d rectangle from screen %g,0.033 to screen %g,0.058 fillcolor rgb '%s' fillstyle solid noborder;", i, x, x + 0.016, colour) \
        .sprintf("set label '%s' at screen %g,0.045 left textcolor rgb ink;", text, x + 0.022)
    eval entry(1, 0.03, "S = Q K^T", products)
    eval entry(2, 0.15, "O += P V", values)
    eval entry(3, 0.27, "begins products", issue)
    eval entry(4, 0.435, "softmax beside P V", softmax)
    eval entry(5, 0.62, "the rest of it, and packing", second)
    eval entry(6, 0.845, "waits", "#ffffff")
    set object 6 fillstyle solid border lc rgb faint
    do for [w = 0 : groups - 1] { # a frame, which is what is seen where nothing is drawn: waiting
        set object 10 + 2 * w rectangle from graph 0, first row(w) + 0.55 to graph 1, first row(w) + 1.25 behind fillstyle empty border lc rgb faint
        set object 11 + 2 * w rectangle from graph 0, first row(w) - 0.15 to graph 1, first row(w) + 0.45 behind fillstyle empty border lc rgb '#e2e2de'
    }
    clip(x) = x - start < 0 ? 0 : x - start > end - start ? end - start : x - start
    shown(x, y) = y > start && x < end
    plot for [w = 0 : groups - 1] file using (($1 == w && shown($3, $5)) ? clip($3) : NaN):(row(w)):(clip($3)):(clip($5)):(row(w) - 0.15):(row(w) + 0.15) \
             every ::1 with boxxyerror fillstyle solid noborder lc rgb products, \
         for [w = 0 : groups - 1] file using (($1 == w && shown($4, $6)) ? clip($4) : NaN):(row(w) + 0.3):(clip($4)):(clip($6)):(row(w) + 0.15):(row(w) + 0.45) \
             every ::1 with boxxyerror fillstyle solid noborder lc rgb values, \
         for [w = 0 : groups - 1] file using (($1 == w && shown($3, $4)) ? clip($3) : NaN):(row(w) + 0.9):(clip($3)):(clip($4)):(row(w) + 0.55):(row(w) + 1.25) \
             every ::1 with boxxyerror fillstyle solid noborder lc rgb issue, \
         for [w = 0 : groups - 1] file using (($1 == w && shown($5, $6)) ? clip($5) : NaN):(row(w) + 0.9):(clip($5)):(clip($6)):(row(w) + 0.55):(row(w) + 1.25) \
             every ::1 with boxxyerror fillstyle solid noborder lc rgb softmax, \
         for [w = 0 : groups - 1] file using (($1 == w && shown($6, $7)) ? clip($6) : NaN):(row(w) + 0.9):(clip($6)):(clip($7)):(row(w) + 0.55):(row(w) + 1.25) \
             every ::1 with boxxyerror fillstyle solid noborder lc rgb second, \
         for [w = 0 : groups - 1] file using (($1 == w && shown($5, $7)) ? 0.5 * (clip($5) + clip($7)) : NaN):(row(w) + 0.9):(sprintf("%d", $2)) \
             every ::1 with labels textcolor rgb "#ffffff", \
         for [w = 0 : groups - 1] file using (($1 == w && shown($3, $5)) ? 0.5 * (clip($3) + clip($5)) : NaN):(row(w)):(sprintf("S %d", $2)) \
             every ::1 with labels textcolor rgb "#ffffff" font ",10", \
         for [w = 0 : groups - 1] file using (($1 == w && shown($4, $6)) ? 0.5 * (clip($4) + clip($6)) : NaN):(row(w) + 0.3):(sprintf("PV %d", $2 - 1)) \
             every ::1 with labels textcolor rgb ink font ",10", \
         file using ($8 >= start && $8 <= end ? $8 - start : NaN):(0.5):(sprintf("%d", $2)) every ::1 with labels left offset 0.4,0 textcolor rgb copy point pt 9 ps 0.9 lc rgb copy, \
         file using ($9 >= start && $9 <= end ? $9 - start : NaN):(0.85):(sprintf("%d", $2)) every ::1 with labels left offset 0.4,0 textcolor rgb copy point pt 9 ps 0.9 lc rgb copy
    set output
    unset label; unset object
}

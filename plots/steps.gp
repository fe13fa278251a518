# Bars: effective bandwidth of every step at one shape, against a copy of the same bytes or reading; or each attention's speed.

folder = ARG1; picture = ARG2; settings = ARG3; below = ARG4
load "plots/style.gp"
bars = number("bars")
copy = number("copy")
top = number("top")
limitname = copy > 0 ? setting("limitname") : ""
set yrange [(bars < 6 ? 6 : bars) + 0.6 : 0.4]
set xrange [0 : 1.02 * top]
set ytics scale 0 noenhanced
set grid noytics
set style fill solid 0.8 noborder

if (in_text) {
    # A line a bar: as many characters as make its share of the axis.
    width = 38
    hashes(speed) = "######################################"[1 : int(width * speed / top + 0.5)]
    set lmargin 20; set rmargin 18; set tmargin 4; set bmargin 3
    set border 11; set yrange [bars + 0.5 : 0.5]; set y2range [bars + 0.5 : 0.5]; set y2tics scale 0; unset grid
    set xrange [0 : top]
    set xlabel "#: GB/s reached    P: as the trips over memory predict    |: ".limitname
    inside = copy < 0.97 * top ? copy : NaN  # otherwise it is the right edge
    plot data("bars") using (0):1:(hashes($3)):ytic(7):y2tic(8) with labels left offset 1,0, \
         data("bars") using 5:1:("P") with labels, data("bars") using (inside):1:("|") with labels
    exit
}

set xlabel setting("measure") textcolor rgb ink
set lmargin at screen (copy > 0 ? 0.21 : 0.27); set rmargin at screen 0.97
set tmargin at screen 1 - (copy > 0 ? 114.0 : 82.0) / height; set bmargin at screen 72.0 / height
if (copy > 0) {
    set arrow 1 from copy, graph 0 to copy, graph 1.02 nohead back lt 91
    limitname = limitname.sprintf(copy < 100 ? ", %.1f GB/s" : ", %.0f GB/s", copy)
    set label 1 limitname at graph 1, graph 1.045 right textcolor rgb ink
    set arrow 2 from graph 0.008, graph 1.02 to graph 0.008, graph 1.07 nohead lw 3 lc rgb ink
    set label 2 "as its trips over memory predict" at graph 0.022, graph 1.045 left textcolor rgb quiet
}
# A bar's text stands in it, or beyond its end.
beyond = number("beyond")
set xrange [0 : (beyond > 0 ? 1.17 : 1.02) * top]
half = 0.36
plot data("bars") using (0):1:(0):3:($1 - half):($1 + half):4:ytic(2) with boxxyerror lc variable, \
     data("bars") using 5:($1 - half - 0.06):(0):(2 * half + 0.12) with vectors nohead lw 3 lc rgb ink, \
     data("bars") using (beyond > 0 ? $3 : 0):1:6 with labels left offset 0.8,0 textcolor rgb ink noenhanced

# What the warps of a block do, and when: a debug build's marks, as `make timeline` leaves them.
# first, blocks: which blocks of keys are shown, and how many.

folder = ARG1; picture = ARG2; settings = ARG3; below = ARG4
load "plots/style.gp"

file = data("marks")
if (!exists("first")) first = 10
if (!exists("blocks")) blocks = 8

# Columns: 1 warpgroup, 2 block, then clocks: 3 K is there, 4 products begun, 5 scores there, 6 P V there, 7 softmax done,
# 8 and 9 copies of K and V begun.
set datafile missing "-"
stats file using (valid(3) ? $1 : NaN) nooutput
groups = int(STATS_max) + 1

# The window: from where a block of warpgroup 0 begins to where another one ends.
start = 0
end = 0
set table $none
plot file using (($1 == 0 && $2 == first ? start = $3 : 0), ($1 == 0 && $2 == first + blocks ? end = $3 : 0)):(0) with table
unset table
clip(x) = x < start ? 0 : x > end ? end - start : x - start
shown(w, from, to) = $1 == w && valid(from) && valid(to) && column(to) > start && column(from) < end
wide(from, to) = clip(column(to)) - clip(column(from)) > (end - start) * 0.028

products = "#0072b2"; values = "#56b4e9"; begin = "#b5b5af"; softmax = "#d55e00"; rest = "#e69f00"; copies = "#5e4fa2"
row(w) = 2.0 + 2.3 * w     # of a warpgroup's products; what its warps do is 0.9 below

# A bar from one mark to another, in every block of warpgroup w; and its name, where there is room.
bars(from, to, at, high, colour) = \
    sprintf("for [w = 0 : groups - 1] file using (shown(w, %d, %d) ? clip($%d) : NaN):(row(w) + %g):", from, to, from, at) \
    .sprintf("(clip($%d)):(clip($%d)):(row(w) + %g):(row(w) + %g) ", from, to, at - high, at + high) \
    .sprintf("with boxxyerror fillstyle solid noborder lc rgb '%s', ", colour)
names(from, to, at, text, colour, size) = \
    sprintf("for [w = 0 : groups - 1] file using (shown(w, %d, %d) && wide(%d, %d) ? ", from, to, from, to) \
    .sprintf("0.5 * (clip($%d) + clip($%d)) : NaN):(row(w) + %g):(%s) ", from, to, at, text) \
    .sprintf("with labels textcolor rgb '%s' font ',%d', ", colour, size)
ticks(column, y) = \
    sprintf("file using ($%d >= start && $%d <= end ? $%d - start : NaN):(%g):(sprintf('%%d', $2)) ", column, column, column, y) \
    ."with labels left offset 0.4,0 textcolor rgb copies point pt 9 ps 0.9 lc rgb copies, "
entry(i, x, text, colour) = \
    sprintf("set object %d rectangle from screen %g,0.033 to screen %g,0.058 ", i, x, x + 0.016) \
    .sprintf("fillcolor rgb '%s' fillstyle solid noborder;", colour) \
    .sprintf("set label '%s' at screen %g,0.045 left textcolor rgb ink;", text, x + 0.022)
left(text, y, colour) = sprintf("set label '%s' at screen 0.175, first %g right textcolor rgb '%s';", text, y, colour)

set label 102 sprintf("%s: a block of keys takes %.0f clocks", below, (end - start) / (1.0 * blocks))
set lmargin at screen 0.185; set rmargin at screen 0.97; set tmargin at screen 0.84; set bmargin at screen 0.20
set xrange [0 : end - start]
set yrange [row(groups - 1) + 1.5 : 0]
set xlabel "clocks of the SM" textcolor rgb ink
set grid noytics xtics
unset ytics
eval left("copies of K begun", 0.5, ink)
eval left("of V", 1.0, ink)
do for [w = 0 : groups - 1] {
    eval left(sprintf("warpgroup %d", w), row(w) - 0.4, quiet)
    eval left("its products", row(w) + 0.1, ink)
    eval left("its warps", row(w) + 0.9, ink)
    # A frame, which is what is seen where nothing is drawn: waiting.
    set object 10 + w rectangle from graph 0, first row(w) + 0.55 to graph 1, first row(w) + 1.25 behind \
        fillstyle empty border lc rgb faint
}
eval entry(1, 0.03, "S = Q K^T", products)
eval entry(2, 0.15, "P V", values)
eval entry(3, 0.22, "begins products", begin)
eval entry(4, 0.39, "softmax, until P V is waited for", softmax)
eval entry(5, 0.695, "the rest of softmax", rest)
eval entry(6, 0.90, "waits", card)
set object 6 fillstyle solid border lc rgb faint
eval "plot ".bars(3, 5, 0, 0.15, products).bars(4, 6, 0.3, 0.15, values) \
    .bars(3, 4, 0.9, 0.35, begin).bars(5, 6, 0.9, 0.35, softmax).bars(6, 7, 0.9, 0.35, rest) \
    .names(5, 7, 0.9, "sprintf('%d', $2)", "#ffffff", 12).names(3, 5, 0, "sprintf('S %d', $2)", "#ffffff", 9) \
    .names(4, 6, 0.3, "sprintf('PV %d', $2 - 1)", ink, 9).ticks(8, 0.5).ticks(9, 1.0)." NaN notitle"

# What the warps of a block do, and when: a debug build's marks, as `make timeline` leaves them.

folder = ARG1; picture = ARG2; settings = ARG3; below = ARG4
load "plots/style.gp"
groups = number("groups")
products = "#0072b2"; values = "#56b4e9"; begin = "#b5b5af"; softmax = "#d55e00"; rest = "#e69f00"; copies = "#5e4fa2"
row(w) = 2.0 + 2.3 * w     # of a warpgroup's products; what its warps do is 0.9 below
entry(i, x, y, text, colour) = \
    sprintf("set object %d rectangle from screen %g,%g to screen %g,%g ", i, x, y - 0.012, x + 0.016, y + 0.013) \
    .sprintf("fillcolor rgb '%s' fillstyle solid noborder;", colour) \
    .sprintf('set label "%s" at screen %g,%g left textcolor rgb ink;', text, x + 0.022, y)
left(text, y, colour) = sprintf('set label "%s" at screen 0.175, first %g right textcolor rgb "%s";', text, y, colour)

set lmargin at screen 0.185; set rmargin at screen 0.97; set tmargin at screen 0.84; set bmargin at screen 0.235
set xrange [0 : number("width")]
set yrange [row(groups - 1) + 1.5 : 0]
set xlabel "clocks of the SM" textcolor rgb ink
set grid noytics xtics
unset ytics
eval left("copies of K begun", 0.5, ink)
eval left("of V", 1.0, ink)
do for [w = 0 : groups - 1] {
    eval left(sprintf("warpgroup %d", w), row(w) - 0.4, quiet)
    eval left("its products: from\\nasked for to done", row(w) + 0.05, ink) # with the wait for tensor cores that the other has
    eval left("its warps", row(w) + 0.9, ink)
    # A frame, which is what is seen where nothing is drawn: waiting.
    set object 10 + w rectangle from graph 0, first row(w) + 0.55 to graph 1, first row(w) + 1.25 behind \
        fillstyle empty border lc rgb faint
}
eval entry(1, 0.03, 0.085, "S = Q K^T", products)
eval entry(2, 0.18, 0.085, "P V", values)
eval entry(3, 0.34, 0.085, "begins products: waits until the tensor cores have taken both", begin)
eval entry(4, 0.03, 0.04, "first part of softmax, and the wait for P V", softmax)
eval entry(5, 0.42, 0.04, "the rest of softmax, and packing", rest)
eval entry(6, 0.74, 0.04, "between blocks", card)
set object 6 fillstyle solid border lc rgb faint
set style fill solid noborder
plot data("bars") index 0 using 1:3:1:2:3:4 with boxxyerror lc rgb products, \
     data("bars") index 1 using 1:3:1:2:3:4 with boxxyerror lc rgb values, \
     data("bars") index 2 using 1:3:1:2:3:4 with boxxyerror lc rgb begin, \
     data("bars") index 3 using 1:3:1:2:3:4 with boxxyerror lc rgb softmax, \
     data("bars") index 4 using 1:3:1:2:3:4 with boxxyerror lc rgb rest, \
     data("names") index 0 using 1:2:3 with labels textcolor rgb "#ffffff" font ',12', \
     data("names") index 1 using 1:2:3 with labels textcolor rgb "#ffffff" font ',9', \
     data("names") index 2 using 1:2:3 with labels textcolor rgb ink font ',9', \
     data("copies") using 1:2:3 with labels left offset 0.4,0 textcolor rgb copies point pt 9 ps 0.9 lc rgb copies

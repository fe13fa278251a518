# Two panels side by side: curves, and points beside them, against something that doubles. Efficiency of rings; decoding.

folder = ARG1; picture = ARG2; settings = ARG3; below = ARG4
load "plots/style.gp"
panels = number("panels")
set logscale x 2
set tmargin at screen 0.82; set bmargin at screen 0.12
set key noenhanced Left reverse samplen 2.5 spacing 1.25 textcolor rgb ink

set multiplot
do for [panel = 1 : panels] {
    p = "p".panel
    if (panel > 1) { unset object; unset label }
    left = 0.085 + 0.475 * (panel - 1)
    set lmargin at screen left; set rmargin at screen left + 0.41
    set xrange [number(p."least") : number(p."most")]
    set yrange [0 : number(p."high")]
    set xtics ("" 1)
    do for [i = 1 : number(p."tics")] { set xtics add (setting(p."ticname".i) number(p."tic".i)) }
    set xlabel setting(p."xlabel") textcolor rgb ink
    if (panel == 1) { set ylabel setting("ylabel") textcolor rgb ink } else { unset ylabel }
    set label setting(p."title") at graph 0.5, graph 1.05 center textcolor rgb quiet
    if (setting(p."key") eq "top left") { set key on top left }
    if (setting(p."key") eq "bottom left") { set key on bottom left }
    if (setting(p."key") eq "bottom right") { set key on bottom right }
    if (setting(p."key") eq "none") { set key off }
    plot for [i = 1 : number(p."curves")] data(p."curves") index i - 1 using 1:2 with lines \
             lt number(p."type".i) dt number(p."dash".i) title setting(p."name".i), \
         for [i = 1 : number(p."curves")] data(p."dots") index i - 1 using 1:2 with points \
             lt number(p."type".i) ps 1.2 notitle, \
         data(p."apart") using 1:2:3 with points lc variable pt 6 ps 1.2 notitle
}
unset multiplot

# Effective bandwidth against row length: where each softmax wins, and where a second trip over a row stops being free.
#   gnuplot -e "file='plots/recorded/M.tsv'; prefix='build/plots/M-'; dtype='fp16'" plots/lengths.gp
#   gnuplot -e "file='plots/recorded/M.tsv'; term='dumb'" plots/lengths.gp
# Lines join the lengths that are powers of two; other lengths are rings by themselves, since alignment sets them apart.

load "plots/style.gp"
load query("lengths")

title = "Where does each softmax win?"
set logscale x 2
set xrange [shortest : longest]
set yrange [0 : 1.04 * highest]
set xlabel "columns (length of a row)" textcolor rgb ink
set datafile separator tab

if (in_text) {
    unset label; unset arrow; unset grid
    set xrange [shortest / 1.2 : longest * 1.2]
    eval text_heading(title, machine.": ".shape, 24)
    set lmargin 8; set rmargin 3; set tmargin 4; set bmargin 4
    set xlabel "columns\nGB/s of each step by its number; c: copy, t: torch.softmax, T: torch.compile"
    letter(name) = name eq "copy" ? "c" : name eq "torch.compile" ? "T" : name[1:1] eq "t" ? "t" : sprintf("%d", name[1:2] + 0)
    plot for [i = 1 : words(list)] $curves index i - 1 using 1:2 with lines lt 0, \
         for [i = 1 : words(list)] $curves index i - 1 using 1:2:(letter(word(list, i))) with labels
    exit
}

eval heading(title, machine.": ".shape.(cliff_text eq "" ? "" : "; ".cliff_text))
set ylabel "effective bandwidth, GB/s" textcolor rgb ink
set lmargin at screen 0.09; set rmargin at screen 0.785; set tmargin at screen 0.78; set bmargin at screen 0.12
set label odd_text at screen 0.97, screen 0.045 right textcolor rgb quiet
do for [format in formats] {
    eval picture(format, "lengths")
    plot for [i = 1 : words(list)] $curves index i - 1 using 1:2 with linespoints lt word(types, i) + 0, \
         $odd using 1:2:3 with points lc variable pt 6
    set output
}

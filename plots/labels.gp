# Names at the ends of curves, each with a short line to its end. prefix: of the settings. marks: with the curve's marker, too.

do for [i = 1 : number(prefix."labels")] {
    x = number(prefix."x".i)
    y = number(prefix."y".i)
    type = number(prefix."type".i)
    if (marks) { set label setting(prefix."text".i) at x, y left noenhanced textcolor rgb ink point lt type offset 0.6,-0.15 } \
    else { set label setting(prefix."text".i) at x, y left noenhanced textcolor rgb ink offset 0.4,0 }
    if (has(prefix."fromx".i)) {
        set arrow from number(prefix."fromx".i), number(prefix."fromy".i) to x, y nohead lt type lw 1 dt 1
    }
}

# Memory that attention needs against the length of one sequence. Nothing is measured: it is what the steps' workspaces add up to.

folder = ARG1; picture = ARG2; settings = ARG3; below = ARG4
load "plots/style.gp"

heads = 32.0
dim = 64.0
GiB = 2.0 ** 30
# Q, K, V and O, of 4 or 2 bytes an element; the scores of all heads, which standard attention keeps; the log-sum-exp of each
# query, fp32.
tensors(n, size) = 4 * heads * n * dim * size
scores(n, size) = heads * n * n * size
lse(n) = 4 * heads * n
# Where that of standard attention reaches a size: the positive root of a quadratic equation.
longest(bytes, size) = (-4 * dim * size - 4 + sqrt((4 * dim * size + 4) ** 2 + 4 * size * bytes / heads)) / (2 * size)

shortest = 1024.0
last = 1024.0 ** 2
set logscale x 2
set logscale y 2
set xrange [shortest : 1.01 * last]
set yrange [2.0 ** -7 : 2.0 ** 17]
set samples 200
set xtics ("1 Ki" 1024, "4 Ki" 4096, "16 Ki" 16384, "64 Ki" 65536, "256 Ki" 262144, "1 Mi" 1048576)
set ytics ("16 MiB" 2.0 ** -6, "256 MiB" 0.25, "4 GiB" 4, "64 GiB" 64, "1 TiB" 1024, "16 TiB" 2.0 ** 14)
set xlabel "tokens" textcolor rgb ink
set lmargin at screen 0.09; set rmargin at screen 0.745; set tmargin at screen 0.84; set bmargin at screen 0.12

# Two sizes of GPU memory, and where standard attention stops fitting into them.
array sizes[2] = [24, 80]
do for [i = 1 : 2] {
    set arrow from shortest, sizes[i] to 1.01 * last, sizes[i] nohead back lt 91
    set label sprintf("a GPU of %d GiB", sizes[i]) at shortest, sizes[i] left offset 1,0.6 textcolor rgb ink
    do for [size = 2 : 4 : 2] {
        n = longest(sizes[i] * GiB, size)
        set object circle at n, sizes[i] size screen 0.004 fillstyle solid noborder fillcolor rgb ink
        if (size == 2) { set label sprintf("%.0f Ki", n / 1024) at n, sizes[i] left offset 0.7,-0.8 textcolor rgb ink } \
        else { set label sprintf("%.0f Ki", n / 1024) at n, sizes[i] right offset -0.7,0.7 textcolor rgb ink }
    }
}
# (Texts of this file, not of a table.)
name(text, y, lt) = sprintf("set label '%s' at %g, %g left noenhanced textcolor rgb ink point lt %d offset 0.6,-0.15;", \
                             text, 1.25 * last, y, lt)
eval name("11 and 12 in fp32", (tensors(last, 4) + scores(last, 4)) / GiB, 11)
eval name("12 in fp16 and bf16", (tensors(last, 2) + scores(last, 2)) / GiB, 12)
eval name("13 to 15 in fp32", tensors(last, 4) / GiB, 15)
eval name("16 on, in fp16 and bf16", tensors(last, 2) / GiB, 23)

plot (tensors(x, 4) + scores(x, 4) + lse(x)) / GiB with lines lt 11, \
     (tensors(x, 2) + scores(x, 2) + lse(x)) / GiB with lines lt 12, \
     (tensors(x, 4) + lse(x)) / GiB with lines lt 15, (tensors(x, 2) + lse(x)) / GiB with lines lt 23

# What a plot needs of one recorded file, printed as gnuplot commands: variables and data blocks. Each .gp loads it:
#   awk -f plots/results.awk -f plots/query.awk -v file=F -v want=steps|lengths|error|threads [-v dtype=fp16] [-v threads=1]
# Threads default to the most that the file has. Steps that are missing are left out; with none at all, exit status 1.

BEGIN {
    load(file)
    if (failed) nothing("")
    if (dtype == "") dtype = "fp32"
    n = thread_counts(file, order)
    if (want == "threads") {
        for (i = 1; i <= n; i++) print order[i]
        exit failed
    }
    if (threads == "") threads = order[1]
    for (row = 1; row <= count; row++)
        if (usable(row) && cell[row, "dtype"] == dtype && cell[row, "threads"] == threads && cell[row, "cols"] > 0)
            mine[row]
    choose_tensor()
    if (want == "steps") bars()
    else curves(want == "error" ? "error" : "gb_s")
    exit failed
}

function nothing(why) {
    if (why) printf "%s: nothing to draw: %s (%s)\n", file, why, dtype > "/dev/stderr"
    print "exit status 1"
    exit 1
}

function machine(    row) {
    for (row in mine)
        return machine_name(cell[row, "device"], threads)
}

# Steps keep their colour in every plot: line type 1 is step 01, ... (style.gp).
function line_type(step) {
    if (step == "copy") return 7
    if (is_peer(step)) return step ~ /compile/ ? 9 : 8
    return step + 0
}

# A file may hold a sweep of one tensor size over its row lengths, and other shapes besides. `octave` is the size, as
# log2 of its elements, that most rows have: what is compared should be of one size.
function choose_tensor(    row, n, o, best) {
    for (row = 1; row <= count; row++) {
        if (!(row in mine)) continue
        o = size_octave(row)
        n[o]++
        if (n[o] > best || (n[o] == best && o > octave)) { best = n[o]; octave = o }
    }
}

function size_octave(row) { return int(log(cell[row, "rows"] * cell[row, "cols"]) / log(2) + 0.5) }

# ---- bandwidth per step

# The shape that most steps were run at; then the one nearest to 8192 columns.
function common_shape(    row, shape, n, far, best, nearest, chosen) {
    for (row = 1; row <= count; row++) {
        if (!(row in mine)) continue
        if (size_octave(row) != octave || is_peer(cell[row, "step"])) continue
        shape = cell[row, "rows"] " x " cell[row, "cols"]
        n[shape]++
        far = (log(cell[row, "cols"] / 8192)) ^ 2
        if (n[shape] > best || (n[shape] == best && far < nearest)) { best = n[shape]; nearest = far; chosen = shape }
    }
    return chosen
}

function bars(    row, shape, here, label, order, n, i, copy, copies, median_of, top, speed, predicted, value, elsewhere) {
    shape = common_shape()
    if (shape == "") nothing("it has no right results of a step on random input")
    for (row = 1; row <= count; row++) {
        if (!(row in mine)) continue
        here = cell[row, "rows"] " x " cell[row, "cols"]
        if (here == shape)
            label[row] = cell[row, "step"]
        else if (cell[row, "step"] ~ /^06/ && here == split_shape(shape))
            label[row] = cell[row, "step"] ", " here
        else
            continue
    }
    n = sort_keys(label, order) # the steps, then their peers: digits sort before letters
    print "$bars << EOD"
    for (i = 1; i <= n; i++) {
        row = order[i]
        speed = cell[row, "gb_s"] + 0
        copy = copy_speed(row)
        if (label[row] == cell[row, "step"] && !is_peer(label[row]) && copy) copies[row] = copy
        if (speed > top) top = speed
        predicted = "NaN"
        if (copy && cell[row, "predicted_bytes"] > 0) {
            predicted = copy * cell[row, "useful_bytes"] / cell[row, "predicted_bytes"]
            if (predicted > top) top = predicted
        }
        value = share(row) "  " digits3(speed) " GB/s"
        elsewhere = substr(label[row], length(cell[row, "step"]) + 1)
        printf("%d\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", i, cell[row, "step"], speed, line_type(cell[row, "step"]), predicted,
            value elsewhere, (elsewhere ? substr(label[row], 1, 2) elsewhere : label[row]), value)
    }
    print "EOD"
    sub(/ x /, " rows x ", shape)
    copy = copies[median_of[int((sort_keys(copies, median_of) + 1) / 2)]]
    if (copy > top) top = copy
    printf "bars = %d\ncopy = %s\ntop = %s\n", n, copy + 0, top
    printf "machine = \"%s\"\nshape = \"%s columns, %s\"\n", machine(), shape, dtype
}

# Step 06 is about longer rows than the other steps are shown with: sixteen times, of a tensor of the same size.
function split_shape(shape,    part) {
    split(shape, part, " x ")
    return part[1] / 16 " x " part[2] * 16
}

# ---- something against row length

function curves(column,    row, cols, lengths, length_at, n, name, names, i, j, points, odd, value, lowest, highest, first, last) {
    for (row = 1; row <= count; row++) {
        if (!(row in mine) || (column == "gb_s" && size_octave(row) != octave)) continue
        cols = cell[row, "cols"] + 0
        lengths[cols] = cols
        keep(cell[row, "step"], cols, cell[row, column])
        if (column == "gb_s" && copy_speed(row) && !is_peer(cell[row, "step"]))
            keep("copy", cols, copy_speed(row))
    }
    n = sort_keys(lengths, length_at)
    first = length_at[1] + 0
    last = length_at[n] + 0
    if (first == last) nothing("it needs results at several row lengths, which make bench adds")

    names = sort_keys(step_named, name)
    print "$curves << EOD"
    for (i = 1; i <= names; i++) {
        points = ""
        for (j = 1; j <= n; j++) {
            cols = length_at[j]
            if (!((name[i], cols) in kept)) continue
            if (power_of_two(cols)) {
                points = points cols "\t" kept[name[i], cols] "\n"
                end_x[name[i]] = cols + 0
                end_y[name[i]] = kept[name[i], cols] + 0
            } else if (name[i] != "copy")
                odd = odd cols "\t" kept[name[i], cols] "\t" line_type(name[i]) "\n"
        }
        print (points ? points : "NaN\tNaN\n") "\n"
    }
    print "EOD"
    printf "$odd << EOD\nNaN\tNaN\t1\n%sEOD\n", odd
    printf "odd_text = \"%s\"\n", odd ? "rings: lengths that are not a power of two" : ""
    for (i in kept) {
        value = kept[i] + 0
        if (lowest == "" || value < lowest) lowest = value
        if (value > highest) highest = value
    }
    print "list = \"\"\ntypes = \"\""
    for (i = 1; i <= names; i++)
        printf "list = list.\" %s\"\ntypes = types.\" %d\"\n", name[i], line_type(name[i])
    printf "lowest = %s\nhighest = %s\nshortest = %d\nlongest = %d\n", lowest, highest, first, last
    printf "machine = \"%s\"\nshape = \"%s elements, %s\"\n", machine(), length_name(2 ^ octave), dtype
    print "set xtics (" tics(first, last) ")"
    labels(column == "error", names, name, lowest, highest, last)
    if (column == "gb_s") cliffs(first, last)
}

function keep(step, cols, value) {
    if (value > 0 && !(want == "error" && kept[step, cols] > value)) {
        kept[step, cols] = value
        step_named[step] = step == "copy" ? "00" : step
    }
}

function power_of_two(n) { while (n % 2 == 0) n /= 2; return n == 1 }

function tics(first, last,    n, octaves, text) {
    for (n = 1; n <= last; n *= 2)
        if (n >= first && ++octaves % 2) text = text (text == "" ? "" : ", ") "\"" length_name(n) "\" " n
    return text
}

# Names at the ends of the curves, moved apart where they would overlap: no two nearer than a line of text.
function labels(logarithmic, names, name, lowest, highest, longest,    i, y, order, n, gap, low, far, at, lt) {
    far = longest * 1.3
    low = logarithmic ? log(lowest) : 0
    gap = ((logarithmic ? log(highest) : highest) - low) / (logarithmic ? 16 : 22)
    for (i = 1; i <= names; i++)
        if (name[i] in end_y) y[name[i]] = logarithmic ? log(end_y[name[i]]) : end_y[name[i]] + 0
    n = sort_keys(y, order)
    for (i = 2; i <= n; i++)
        if (y[order[i]] < y[order[i - 1]] + gap) y[order[i]] = y[order[i - 1]] + gap
    if (n && y[order[n]] > low + (logarithmic ? 16 : 22) * gap) y[order[n]] = low + (logarithmic ? 16 : 22) * gap
    for (i = n - 1; i >= 1; i--)
        if (y[order[i]] > y[order[i + 1]] - gap) y[order[i]] = y[order[i + 1]] - gap
    for (i = 1; i <= n; i++) {
        at = logarithmic ? exp(y[order[i]]) : y[order[i]]
        lt = line_type(order[i])
        printf "set label \"%s\" at %g, %g left noenhanced textcolor rgb ink point lt %d offset 0.6,-0.15\n", order[i], far, at, lt
        if (end_x[order[i]] == longest)
            printf "set arrow from %d, %g to %g, %g nohead lt %d lw 1 dt 1\n", longest, end_y[order[i]], far, at, lt
    }
}

# Where the rows in flight, each once in x and once in y, fill a cache: from there on every further trip is a trip to DRAM.
# GPU: 2048 threads an SM, divided among rows by warps or blocks. CPU: a row a thread; the last level is shared.
function cliffs(first, last,    size, sms, i, n, line, part, bytes, in_flight, l2, text) {
    size = dtype == "fp32" ? 4 : 2
    n = split(fact[file, "cache"], line, "\n")
    sms = fact[file, "sms"] + 0
    for (i = 1; i <= n; i++) {
        split(line[i], part, " ")
        bytes = part[2] * (part[3] == "MiB" ? 1048576 : 1024) / (2 * size)
        if (sms && part[1] == "L2") {
            cliff(bytes / (64 * sms), "32\\nthreads", first, last)
            cliff(bytes / (8 * sms), "256\\nthreads", first, last)
            cliff(bytes / (2 * sms), "1024\\nthreads", first, last)
        } else if (!sms && part[1] != "L1") {
            in_flight = i == n && threads > 1 ? threads : 1
            cliff(bytes / in_flight, part[1] "\\n" part[2] " " part[3], first, last)
        }
        if (part[1] == "L2") l2 = part[2] " " part[3]
    }
    text = sms ? "dashed: the rows in flight fill the L2 (" l2 "), by threads a row" : "dashed: the rows in flight fill a cache"
    printf "cliff_text = \"%s\"\n", n ? text : ""
}

function cliff(cols, text, first, last) {
    if (cols <= first || cols >= last) return
    printf "set arrow from %.0f, graph 0 to %.0f, graph 1 nohead back lw 1 lc rgb faint dt (6, 4)\n", cols, cols
    printf "set label \"%s\" at %.0f, graph 1.075 center textcolor rgb quiet\n", text, cols
}

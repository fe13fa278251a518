# What a plot needs of one recorded file, printed as gnuplot commands: variables and data blocks. Each .gp loads it:
#   awk -f plots/results.awk -f plots/query.awk -v file=F -v want=WANT [-v dtype=fp16] [-v threads=1] [-v dim=128] [-v causal=1]
# WANT is steps, lengths, error; attention-steps, attention-tflops, attention-error, attention-scale, roofline; or threads, dims: what there is of these.
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
    attention = want ~ /^attention|^roofline/
    at = attention ? "seq_q" : "cols"
    if (attention || want == "dims") choose_usual()
    for (row = 1; row <= count; row++)
        if (usable(row) && cell[row, "threads"] == threads && (want == "dims" || wanted_here(row)))
            mine[row]
    if (want == "attention-scale") scale_curves()
    if (want == "dims") dims()
    else if (want == "steps") bars()
    else if (want == "attention-steps") attention_bars()
    else if (want == "attention-tflops") attention_curves()
    else if (want == "roofline") roofline()
    else if (want != "attention-scale") curves(want ~ /error/ ? "error" : "gb_s")
    exit failed
}

function wanted_here(row) {
    if (!attention) return cell[row, "cols"] > 0 && cell[row, "dtype"] == dtype
    return (row in usual) && (want ~ /steps|roofline/ || cell[row, "dtype"] == dtype) && \
        (dim == "" || cell[row, "dim"] == dim)
}

# The head dimensions with attention results, smallest first.
function dims(    row, found, order, n, i) {
    for (row in mine)
        if (row in usual) found[cell[row, "dim"]] = cell[row, "dim"] + 0
    n = sort_keys(found, order)
    for (i = 1; i <= n; i++) print order[i]
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
    if (step == "copy") return 21
    if (is_peer(step)) return step ~ /compile|cudnn/ ? 23 : step ~ /math/ ? 24 : step ~ /attention-3/ ? 25 : 22
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

# The shape that most steps were run at; then the one nearest to 8192 columns, or to attention of 4096 tokens, dim 64, no mask.
function common_shape(    row, shape, n, far, best, nearest, chosen) {
    for (row = 1; row <= count; row++) {
        if (!(row in mine)) continue
        if ((!attention && size_octave(row) != octave) || is_peer(cell[row, "step"])) continue
        shape = shape_of(row)
        n[shape]++
        far = (log(cell[row, at] / (attention ? 4096 : 8192))) ^ 2
        if (attention) far += 100 * cell[row, "causal"] + (log(cell[row, "dim"] / 64)) ^ 2
        if (n[shape] > best || (n[shape] == best && far < nearest)) { best = n[shape]; nearest = far; chosen = shape }
    }
    return chosen
}

function bars(    row, shape, here, label, order, n, i, copy, copies, median_of, top, speed, predicted, value, elsewhere) {
    choose_tensor()
    shape = common_shape()
    if (shape == "") nothing("it has no right results of a step on random input")
    for (row = 1; row <= count; row++) {
        if (!(row in mine)) continue
        here = shape_of(row)
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

function curves(column,    row, cols, lengths, length_at, n, name, names, i, j, points, odd, value, lowest, highest, bits, first, last) {
    if (column == "gb_s") choose_tensor()
    for (row = 1; row <= count; row++) {
        if (!(row in mine) || (column == "gb_s" && size_octave(row) != octave)) continue
        cols = cell[row, at] + 0
        lengths[cols] = cols
        keep(cell[row, "step"], cols, cell[row, column] * (scale ? scale : 1))
        if (column == "gb_s" && copy_speed(row) && !is_peer(cell[row, "step"]))
            keep("copy", cols, copy_speed(row))
    }
    n = sort_keys(lengths, length_at)
    first = length_at[1] + 0
    last = length_at[n] + 0
    if (first == last) nothing("it needs results at several lengths, which make bench adds")

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
    if (column == "error") {
        bits = dtype == "fp16" ? 10 : dtype == "bf16" ? 7 : 23
        lowest = (lowest < 2 ^ -bits ? lowest : 2 ^ -bits) / 2.5
        highest = (highest > 2 ^ -bits ? highest : 2 ^ -bits) * 2
        printf "bits = %d\n", bits
    }
    print "list = \"\"\ntypes = \"\""
    for (i = 1; i <= names; i++)
        printf "list = list.\" %s\"\ntypes = types.\" %d\"\n", name[i], line_type(name[i])
    printf "lowest = %s\nhighest = %s\nshortest = %d\nlongest = %d\n", lowest, highest, first, last
    printf "machine = \"%s\"\n", machine()
    if (column == "gb_s") printf "shape = \"%s elements, %s\"\n", length_name(2 ^ octave), dtype
    print "set xtics (" tics(first, last) ")"
    labels(column == "error", names, name, lowest, scale ? scale * most["tflops"] : highest, last)
    if (column == "gb_s") cliffs(first, last)
}

# ---- attention: error against the size of the scores

# $curves, a block a step: 1 standard deviation of the scores  2 worst error  3 what was allowed there
function scale_curves(    row, x, named, name, names, i, j, order, n, here, bits) {
    bits = dtype == "fp16" ? 11 : dtype == "bf16" ? 8 : 24 # 2^-bits is the unit roundoff
    lowest = 2 ^ -bits
    for (row = 1; row <= count; row++) {
        x = score_size(row)
        if (!x || cell[row, "verdict"] != "pass" || cell[row, "dtype"] != dtype || cell[row, "threads"] != threads) continue
        mine[row]
        named[cell[row, "step"]] = cell[row, "step"]
        extend("x", x)
        extend("y", cell[row, "error"])
        extend("y", cell[row, "tolerance"])
    }
    names = sort_keys(named, name)
    if (!names) nothing("it needs results at several scales, which make bench adds")
    print "$curves << EOD"
    for (i = 1; i <= names; i++) {
        split("", here)
        for (row in mine)
            if (cell[row, "step"] == name[i]) here[row] = score_size(row)
        n = sort_keys(here, order)
        for (j = 1; j <= n; j++) printf "%g\t%g\t%g\n", here[order[j]], cell[order[j], "error"], cell[order[j], "tolerance"]
        end_x[name[i]] = here[order[n]]
        end_y[name[i]] = cell[order[n], "error"]
        printf "\n\n"
        shape = shape_of(order[n])
    }
    printf "EOD\nlist = \"\"\ntypes = \"\"\n"
    for (i = 1; i <= names; i++) printf "list = list.\" %s\"\ntypes = types.\" %d\"\n", name[i], line_type(name[i])
    if (lowest < least["y"]) least["y"] = lowest
    printf "bits = %d\nshortest = %g\nlongest = %g\nlowest = %g\nhighest = %g\n", bits, least["x"], most["x"], least["y"] / 2, 6 * most["y"]
    printf "machine = \"%s\"\nshape = \"%s\"\n", machine(), shape
    labels(1, names, name, least["y"] / 2, 6 * most["y"], most["x"])
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
        if (n >= first && (last < 100 * first || ++octaves % 2)) text = text (text == "" ? "" : ", ") "\"" length_name(n) "\" " n
    return text
}

# Names at the ends of the curves, moved apart where they would overlap: no two nearer than a line of text, and none above `top`, if that is given.
function labels(logarithmic, names, name, lowest, highest, longest, top,    i, y, order, n, gap, low, far, at, lt) {
    far = longest * 1.3
    low = logarithmic ? log(lowest) : 0
    gap = ((logarithmic ? log(highest) : highest) - low) / 22
    for (i = 1; i <= names; i++)
        if (name[i] in end_y) y[name[i]] = logarithmic ? log(end_y[name[i]]) : end_y[name[i]] + 0
    n = sort_keys(y, order)
    for (i = 2; i <= n; i++)
        if (y[order[i]] < y[order[i - 1]] + gap) y[order[i]] = y[order[i - 1]] + gap
    top = top ? log(top) : low + 22 * gap
    if (n && y[order[n]] > top) y[order[n]] = top
    for (i = n - 1; i >= 1; i--)
        if (y[order[i]] > y[order[i + 1]] - gap) y[order[i]] = y[order[i + 1]] - gap
    for (i = 1; i <= n; i++) {
        at = logarithmic ? exp(y[order[i]]) : y[order[i]]
        lt = line_type(order[i])
        printf "set label \"%s\" at %g, %g left noenhanced textcolor rgb ink point lt %d offset 0.6,-0.15\n", order[i], far, at, lt
        if (end_x[order[i]] == longest || want == "roofline")
            printf "set arrow from %g, %g to %g, %g nohead lt %d lw 1 dt 1\n", end_x[order[i]], end_y[order[i]], far, at, lt
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

# ---- attention: time and bytes of every step at one shape

function attention_bars(    shape, order, n, i, type, group, y, d) {
    shape = common_shape()
    if (shape == "") nothing("it has no right results of an attention step on random input")
    print "$bars << EOD"
    two_types(shape, type)
    for (d = 1; d <= 2; d++) {
        n = steps_in(shape, type[d], order)
        if (!n) continue
        group = group sprintf("set label '%s' at graph 0, first %g right offset -1.2,0 noenhanced textcolor rgb quiet; ", type[d], ++y)
        for (i = 1; i <= n; i++) attention_bar(order[i], ++y)
    }
    printf "EOD\ngroups = \"%s\"\nbars = %g\nmachine = \"%s\"\nshape = \"%s\"\n", group, y, machine(), shape
    printf "fastest = %g\nslowest = %g\nleast = %g\nmost = %g\n", least["ms"], most["ms"], least["bytes"], most["bytes"]
}

# One type of 4 bytes and one of 2 are shown together.
function two_types(shape, type,    row, bf16) {
    for (row in mine)
        if (shape_of(row) == shape && cell[row, "dtype"] == "bf16") bf16 = 1
    split("fp32 " (bf16 ? "bf16" : "fp16"), type, " ")
}

# order[1..n]: the rows of a shape and type, by step: digits sort before letters, so that peers come last.
function steps_in(shape, type, order,    row, label) {
    split("", label)
    for (row in mine)
        if (shape_of(row) == shape && cell[row, "dtype"] == type) label[row] = cell[row, "step"]
    return sort_keys(label, order)
}

# 1 y  2 step  3 line type  4 ms  5 ms predicted  6 predicted bytes  7 useful bytes  8, 9, 10 texts
function attention_bar(row, y,    ms, predicted, bytes, useful, speed) {
    ms = cell[row, "median_ms"] + 0
    predicted = predicted_ms(row)
    bytes = cell[row, "predicted_bytes"] > 0 ? cell[row, "predicted_bytes"] + 0 : 0
    useful = cell[row, "useful_bytes"] + 0
    speed = digits3(ms) " ms, " tflops(cell[row, "tflop_s"])
    extend("ms", ms); extend("ms", predicted); extend("bytes", bytes); extend("bytes", useful)
    printf "%d\t%s\t%d\t%g\t%s\t%s\t%g\t%s%s\t%s\t%s%s\n", y, cell[row, "step"], line_type(cell[row, "step"]), ms, or_nan(predicted), \
        or_nan(bytes), useful, speed, (of_ceiling(row) ? ", " of_ceiling(row) : ""), (bytes ? bytes_name(bytes) : ""), \
        speed, (of_ceiling(row) ? sprintf(", %.0f %%", cell[row, "percent"]) : "")
}

# The longest of what a step claims would take: its bytes at copy speed, its exponentials, its products. 0 for peers, which claim nothing.
function predicted_ms(row,    fp32, longest) {
    if (is_peer(cell[row, "step"])) return 0
    fp32 = cell[row, "dtype"] == "fp32"
    longest = most_of(longest, cell[row, "predicted_bytes"] / 1e6, "copy", "fp32")
    longest = most_of(longest, cell[row, "exps"] / 1e6, "exp", "fp32")
    return most_of(longest, cell[row, "flops"] / 1e9, fp32 ? "fma" : "matmul", fp32 ? "fp32" : "bf16")
}

function most_of(longest, work, name, type,    rate) {
    rate = ceiling(file, name, type, threads)
    return rate && work / rate > longest ? work / rate : longest + 0
}

function or_nan(x) { return x > 0 ? sprintf("%.6g", x) : "NaN" }

function extend(what, value) {
    if (value + 0 <= 0) return
    if (!(what in least) || value < least[what]) least[what] = value
    if (!(what in most) || value > most[what]) most[what] = value
}

# ---- attention: the roofline

# Points where a step's claim (FLOPs for each byte moved) and its speed meet; above them what copy speed and the two kinds of product allow.
# Softmax steps are shown with 5 FLOPs an element, one each for maximum, difference, exponential, sum and quotient.
function roofline(    shape, type, copy, n, order, i, d) {
    shape = common_shape()
    copy = ceiling(file, "copy", "fp32", threads) / 1000
    if (shape == "" || !copy) nothing("it has no attention results, or no ceilings, which step 0 measures")
    two_types(shape, type)
    scale = ceiling(file, "fma", "fp32", threads) < 1 ? 1000 : 1
    for (d = 1; d <= 2; d++) {
        n = steps_in(shape, type[d], order)
        for (i = 1; i <= n; i++)
            if (cell[order[i], "predicted_bytes"] > 0)
                point(order[i], cell[order[i], "step"] ", " cell[order[i], "dtype"], cell[order[i], "flops"])
    }
    printf "machine = \"%s\"\nunit = \"%s\"\n", machine(), (scale == 1 ? "TFLOP/s" : "GFLOP/s")
    printf "shape = \"%s%s\"\n", shape, softmax_points()
    print "$roofs << EOD"
    roof(copy, ceiling(file, "fma", "fp32", threads), "fma, fp32")
    roof(copy, ceiling(file, "matmul", "bf16", threads), "matmul, bf16")
    printf "EOD\nslope = %g\nridge = %g\n", copy * scale, ridge
    printf "from_x = %g\nto_x = %g\nfrom_y = %g\nto_y = %g\n", least["x"] / 2, most["x"] * 4, least["y"] / 8, most["y"] * 2.5
    for (i in end_x) printf "set label \"\" at %g, %g point lt %d front\n", end_x[i], end_y[i], line_type(i)
    point_names()
}

function point(row, name, flops) {
    end_x[name] = flops / cell[row, "predicted_bytes"]
    end_y[name] = flops / cell[row, "median_ms"] * 1e-9 * scale
    extend("x", end_x[name])
    extend("y", end_y[name])
}

function roof(copy, rate, text) {
    if (!rate) return
    ridge = rate / copy
    extend("x", ridge)
    extend("y", rate * scale)
    printf "%g\t%g\t%s\n", ridge, rate * scale, text
}

# The softmax steps, at the shape that most of them have, which is returned, for a heading.
function softmax_points(    row, shape, name) {
    attention = 0
    at = "cols"
    dtype = "fp32"
    split("", mine)
    for (row = 1; row <= count; row++)
        if (usable(row) && cell[row, "threads"] == threads && cell[row, "predicted_bytes"] > 0 && wanted_here(row)) mine[row]
    choose_tensor()
    shape = common_shape()
    for (row in mine)
        if (shape_of(row) == shape) {
            name = cell[row, "step"]
            sub(/_softmax/, "", name)
            point(row, name, 5 * cell[row, "rows"] * cell[row, "cols"])
        }
    return shape == "" ? "" : "; softmax of " shape
}

# The names of points stand beside them, but those of the softmax steps, and those far on the right, of which there are many: in a column.
function point_names(    i, left, lefts, name, names, last, top) {
    for (i in end_x)
        if (i !~ /,/) {
            left[++lefts] = i
            if (end_x[i] > last) last = end_x[i]
            if (end_y[i] > top) top = end_y[i]
        } else if (end_x[i] > most["x"] / 10)
            name[++names] = i
        else
            printf "set label \"%s\" at %g, %g left noenhanced textcolor rgb ink offset 0.8,0.5\n", i, end_x[i], end_y[i]
    labels(1, names, name, least["y"] / 8, most["y"] * 2.5, most["x"] * 4)
    labels(1, lefts, left, least["y"] / 8, most["y"] * 2.5, 1.5 * last, top)
}

# ---- attention: TFLOP/s against length, of one dim and type: a panel for each mask

# lone: commands that number the steps of which there is one point, beside it: left and right in turn, since points may lie close.
function lone_names(    row, step, points, at, n) {
    for (row in mine) {
        step = cell[row, "step"]
        points[step]++
        at[step] = sprintf("%d, %g", cell[row, "seq_q"], scale * cell[row, "tflop_s"])
    }
    printf "lone = \""
    for (step in points)
        if (points[step] == 1)
            printf "set label '%s' at %s %s noenhanced textcolor rgb ink offset %s0.9, 0.05;", substr(step, 1, 2), at[step], n % 2 ? "left" : "right", n++ % 2 ? "" : "-"
    printf "\"\n"
}

# Without `causal`: what the panels have in common, masks being those that have several lengths. With it: the curves of that panel.
function attention_curves(    row, mask, lengths, masks, tokens, same_tokens, heads) {
    same_tokens = 1
    for (row in mine) {
        if (power_of_two(cell[row, "seq_q"])) {
            heads = cell[row, "heads"]
            if (tokens && tokens != cell[row, "batch"] * cell[row, "seq_q"]) same_tokens = 0
            tokens = cell[row, "batch"] * cell[row, "seq_q"]
        }
        mask = cell[row, "causal"]
        if (!((mask, cell[row, "seq_q"]) in lengths) && ++lengths[mask] == 2) masks[mask] = mask
        lengths[mask, cell[row, "seq_q"]]
        extend("tflops", cell[row, "tflop_s"])
    }
    if (!(0 in masks) && !(1 in masks)) nothing("it needs attention results at several lengths, which make bench adds")
    if (dtype == "fp32") extend("tflops", ceiling(file, "fma", "fp32", threads))
    else extend("tflops", ceiling(file, "matmul", "bf16", threads))
    scale = most["tflops"] < 1 ? 1000 : 1
    if (causal != "") {
        for (row in mine)
            if (cell[row, "causal"] != causal) delete mine[row]
        lone_names()
        curves("tflop_s")
        return
    }
    printf "masks = \"%s\"\n", (0 in masks) ? (1 in masks) ? "0 1" : "0" : "1"
    printf "shape = \"%s head%s of %s, %s%s\"\n", heads, (heads > 1 ? "s" : ""), dim, dtype, \
        (same_tokens ? "; " tokens " tokens in all" : "")
    printf "machine = \"%s\"\nscale = %g\nunit = \"%s\"\ntop = %g\n", machine(), scale, scale == 1 ? "TFLOP/s" : "GFLOP/s", scale * most["tflops"]
    printf "limit = %g\nexps = %g\n", scale * ceiling(file, dtype == "fp32" ? "fma" : "matmul", dtype == "fp32" ? "fp32" : "bf16", threads), \
        scale * ceiling(file, "exp", "fp32", threads) * 4 * dim / 1000
}

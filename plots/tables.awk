# A page with its tables made again: awk -f results.awk -f tables.awk -v recorded="FILE.tsv ..." -v mains="MAIN.c ..." PAGE.md

BEGIN {
    n = split(mains, path, " ")
    for (i = 1; i <= n; i++) read_claims(path[i])
    n = split(recorded, path, " ")
    for (i = 1; i <= n; i++) add_machines(path[i])
    choose_usual()
}
/^<!-- results/ {
    print
    if (inside) complain("a table inside the table of line " inside)
    inside = FNR
    table($0)
}
/^<!-- \/results -->/ { inside = 0 }
!inside
END {
    if (inside) complain("the table of line " inside " has no end: <!-- /results -->")
    exit failed
}

function complain(what) {
    printf "%s:%d: %s\n", FILENAME, FNR, what > "/dev/stderr"
    failed = 1
}

# What a step claims, from the one place that says it: its main.c.
function read_claims(path,    part, step, line) {
    split(path, part, "/")
    step = step_name[++steps] = part[2]
    while ((getline line < path) > 0) {
        if (match(line, /\.idea = "[^"]*"/)) idea[step] = substr(line, RSTART + 9, RLENGTH - 10)
        if (line ~ /struct attention_step/) attends[step]
        if (match(line, /\.reads = [0-9.]+/)) reads[step] = substr(line, RSTART + 9, RLENGTH - 9) + 0
        if (match(line, /\.writes = [0-9.]+/)) writes[step] = substr(line, RSTART + 10, RLENGTH - 10) + 0
        if (match(line, /\.exps = [0-9.]+/)) exps[step] = substr(line, RSTART + 8, RLENGTH - 8) + 0
    }
    close(path)
}

# A recorded file is a machine; a CPU's is one for every number of threads. The main one is the one with the most.
function add_machines(file,    n, order, i) {
    load(file)
    n = thread_counts(file, order)
    for (i = 1; i <= n; i++) {
        file_at[++machines] = file
        threads_at[machines] = order[i]
        is_main[machines] = i == 1
        name_at[machines] = machine_name(fact[file, "device"], order[i])
    }
}

# The row of machine m, of the shape that is asked for (but of another length, where one is given); 0 when there is none. Of rows that
# differ in what was not asked for: the largest. Attention: the usual batch and heads, unless others are asked for.
function find(m, step, dtype, len,    row, best) {
    for (row = 1; row <= count; row++)
        if (cell[row, "step"] == step && cell[row, "dtype"] == dtype && usable(row) && on_machine(row, m) && fits(row, len) && \
            (!best || cell[row, "useful_bytes"] + 0 > cell[best, "useful_bytes"] + 0))
            best = row
    if (best) used[m]
    return best + 0
}

function on_machine(row, m) { return file_of[row] == file_at[m] && cell[row, "threads"] == threads_at[m] }

function fits(row, len,    column) {
    if (attention && !(row in usual) && !("batch" in shape) && !("heads" in shape) && !("kv_heads" in shape)) return 0
    for (column in shape)
        if (cell[row, column] != (column == at && len ? len : shape[column])) return 0
    return 1
}

function trips(step) { return step in reads ? reads[step] " + " writes[step] : "" }
function link(step) { return "[" step "](" (FILENAME ~ /^steps\// ? "../" : FILENAME ~ /\// ? "../steps/" : "steps/") step "/README.md)" }
function number(row, column) { return digits3(cell[row, column]) }
function spread(row) { return number(row, "median_ms") " (" number(row, "p10_ms") " to " number(row, "p90_ms") ")" }

# The heading of a table: its columns, divided by |.
function heading(columns,    rule) {
    rule = columns
    gsub(/[^|]+/, "---", rule)
    print "| " columns " |\n|" rule "|"
}

# A column for each machine: its name (no step), or what it did with a step.
function machine_columns(step, dtype, long,    m, row, text) {
    for (m = 1; m <= machines; m++) {
        if (!is_main[m]) continue
        row = find(m, step, dtype)
        text = text " | " (step == "" ? name_at[m] : row ? (long ? number(row, "median_ms") " ms, " : "") speed(row) : "")
    }
    return text
}

# What a row reached, and how much of what it could.
function speed(row) {
    if (!attention) return number(row, "gb_s") " GB/s, " share(row)
    return tflops(cell[row, "tflop_s"]) (of_ceiling(row) ? ", " of_ceiling(row) : "")
}

# ---- the kinds of tables. `shape`: values that some columns must have; `dtype`; wanted[1..]: the steps that the marker names.

function table(marker,    arg, n, i, part) {
    n = split(marker, arg, " ") - 1 # <!-- results KIND ... -->
    attention = arg[3] ~ /^attention/
    at = attention ? "seq_q" : "cols"
    dtype = attention ? "" : "fp32"
    split("", shape)
    split("", wanted)
    split("", used)
    if (attention) { shape["seq_q"] = 4096; shape["dim"] = 64; shape["causal"] = 0 }
    else { shape["rows"] = 16384; shape["cols"] = 8192 }
    for (i = 4; i <= n; i++) {
        split(arg[i], part, "=")
        if (part[1] == "dtype") dtype = part[2]
        else if (arg[i] ~ /=/) shape[part[1] == "seq" ? "seq_q" : part[1]] = part[2]
        else wanted[++wanted[0]] = arg[i]
    }
    if (!machines) print "(Nothing is recorded yet: `make bench record tables`.)"
    else if (arg[3] == "steps") steps_table()
    else if (arg[3] == "summary") summary_table()
    else if (arg[3] == "compare") compare_table(wanted[1], wanted[2])
    else if (arg[3] == "lengths") lengths_table()
    else if (arg[3] == "few") few_table(wanted[1])
    else if (arg[3] == "attention-steps") attention_steps_table()
    else if (arg[3] == "attention-summary") attention_summary_table()
    else if (arg[3] == "attention-compare") attention_compare_table()
    else if (arg[3] == "attention-lengths") attention_lengths_table()
    else if (arg[3] == "ceilings") ceilings_table()
    else if (arg[3] == "machines") machines_table()
    else complain("no such kind of table: " arg[3])
}

function steps_table(    i) {
    heading("step | the one idea | reads + writes" machine_columns(""))
    for (i = 1; i <= steps; i++)
        if (!(step_name[i] in attends))
            print "| " link(step_name[i]) " | " idea[step_name[i]] " | " trips(step_name[i]) machine_columns(step_name[i], dtype, 1) " |"
    printf "\nx is %d x %d, %s. Median time, useful bandwidth, and its share of a copy's.\n", shape["rows"], shape["cols"], dtype
}

function summary_table(    i, step, row, worst) {
    heading("step | reads + writes | bytes an element | exps an element | worst error" machine_columns(""))
    for (i = 1; i <= steps; i++) {
        step = step_name[i]
        if (!(step in reads)) continue
        worst = 0
        for (row = 1; row <= count; row++)
            if (cell[row, "step"] == step && cell[row, "dtype"] == dtype && usable(row) && cell[row, "error"] + 0 >= cell[worst, "error"] + 0)
                worst = row
        print "| " link(step) " | " trips(step) " | " (dtype == "fp32" ? 4 : 2) * (reads[step] + writes[step]) " | " exps[step] " | " \
            (worst ? sprintf("%.1e at %s columns", cell[worst, "error"], length_name(cell[worst, "cols"])) : "") machine_columns(step, dtype) " |"
    }
    printf "\nBandwidth, and share of a copy, at %d x %d, %s; the error is the worst of all recorded runs.\n", shape["rows"], shape["cols"], dtype
}

function compare_table(a, b,    m, i, step, row, ms, ratios) {
    heading("machine | step | reads + writes | exps | ms (p10 to p90) | GB/s | of copy" (b ? " | predicted: memory, exps | measured" : ""))
    for (m = 1; m <= machines; m++) {
        ms = 0
        for (i = 1; i <= (b ? 2 : 1); i++) {
            step = i == 1 ? a : b
            row = find(m, step, dtype)
            if (!row) continue
            ratios = b ? " | | |" : " |"
            if (ms && (a in reads) && (b in reads))
                ratios = sprintf(" | %.2fx, %.2fx | %.2fx |", (reads[a] + writes[a]) / (reads[b] + writes[b]), exps[a] / exps[b], \
                    ms / cell[row, "median_ms"])
            print "| " name_at[m] " | " step " | " trips(step) " | " exps[step] " | " spread(row) " | " number(row, "gb_s") " | " share(row) ratios
            ms = cell[row, "median_ms"]
        }
    }
    printf "\nx is %d x %d, %s.\n", shape["rows"], shape["cols"], dtype
}

function lengths_table(    m, d, type, i, k, row, found, order, n, text, copy, tables) {
    split("fp32 fp16 bf16", type, " ")
    delete shape["rows"] # the most that there are
    for (m = 1; m <= machines; m++)
        for (d = 1; d <= 3; d++) {
            split("", found)
            for (row = 1; row <= count; row++)
                for (i = 1; i <= wanted[0]; i++)
                    if (cell[row, "step"] == wanted[i] && find(m, wanted[i], type[d], cell[row, "cols"]) == row)
                        found[cell[row, "cols"]] = cell[row, "cols"] + 0
            n = sort_keys(found, order)
            if (!n) continue
            print (tables++ ? "\n" : "") name_at[m] ", " type[d] ": GB/s, and share of a copy.\n"
            text = "columns | copy"
            for (i = 1; i <= wanted[0]; i++) text = text " | " wanted[i]
            heading(text)
            for (k = 1; k <= n; k++) {
                text = copy = ""
                for (i = wanted[0]; i >= 1; i--) {
                    row = find(m, wanted[i], type[d], order[k])
                    text = " | " (row ? number(row, "gb_s") ", " share(row) : "") text
                    if (row && copy_speed(row)) copy = digits3(copy_speed(row))
                }
                print "| " length_name(order[k]) " | " copy text " |"
            }
        }
}

# Rows too few to fill the machine: 16 at most, of no more than 16 Mi elements.
function few_table(step,    m, row) {
    heading("machine | rows x columns | type | ms (p10 to p90) | GB/s | of copy")
    for (m = 1; m <= machines; m++)
        for (row = 1; row <= count; row++)
            if (cell[row, "step"] == step && usable(row) && on_machine(row, m) && cell[row, "rows"] <= 16 && \
                cell[row, "rows"] * cell[row, "cols"] <= 16777216)
                print "| " name_at[m] " | " cell[row, "rows"] " x " length_name(cell[row, "cols"]) " | " cell[row, "dtype"] " | " spread(row) " | " \
                    number(row, "gb_s") " | " share(row) " |"
}

# ---- attention. A step is a row for each type that was asked for, or else for each of fp32 and bf16 that is recorded.

function types(step, type,    all, n, d, m) {
    split(dtype == "" ? "fp32 bf16" : dtype, all, " ")
    for (d = 1; d in all; d++)
        for (m = 1; m <= machines; m++)
            if (is_main[m] && find(m, step, all[d])) {
                type[++n] = all[d]
                break
            }
    return n + 0
}

# A number that is the same on every machine: what the step claims, in units of `unit`. "82"
function claim(step, dtype, column, unit,    m, row) {
    for (m = 1; m <= machines; m++)
        if ((row = find(m, step, dtype)))
            return sprintf("%.3g", cell[row, column] / (unit == "scores" ? cell[row, "flops"] / 4 / cell[row, "dim"] : cell[row, unit]))
}

function attention_steps_table(    i, d, n, step, type) {
    heading("step | the one idea | type | bytes predicted" machine_columns(""))
    for (i = 1; i <= steps; i++) {
        step = step_name[i]
        if (!(step in attends)) continue
        n = types(step, type)
        if (!n) print "| " link(step) " | " idea[step] " | | " machine_columns(step, "") " |"
        for (d = 1; d <= n; d++)
            print "| " (d == 1 ? link(step) " | " idea[step] : " | ") " | " type[d] " | " claim(step, type[d], "predicted_bytes", "useful_bytes") "x" \
                machine_columns(step, type[d], 1) " |"
    }
    caption("Median time, FLOPs of the two products over it, and the share of the tightest ceiling. Bytes: in units of Q, K, V and O, once each.")
}

function attention_summary_table(    i, d, n, step, type, row, worst) {
    heading("step | type | bytes predicted | exps a score | worst error" machine_columns(""))
    for (i = 1; i <= steps; i++) {
        step = step_name[i]
        n = step in attends ? types(step, type) : 0
        for (d = 1; d <= n; d++) {
            worst = 0
            for (row = 1; row <= count; row++)
                if (cell[row, "step"] == step && cell[row, "dtype"] == type[d] && usable(row) && is_attention(row) && \
                    cell[row, "error"] + 0 >= cell[worst, "error"] + 0)
                    worst = row
            print "| " (d == 1 ? link(step) : "") " | " type[d] " | " claim(step, type[d], "predicted_bytes", "useful_bytes") "x | " \
                claim(step, type[d], "exps", "scores") " | " sprintf("%.1e at %s tokens", cell[worst, "error"], length_name(cell[worst, "seq_k"])) \
                machine_columns(step, type[d]) " |"
        }
    }
    caption("Bytes in units of Q, K, V and O, once each; the error, over the largest of its row, is the worst of all recorded runs.")
}

# STEP or STEP:TYPE, in the order of the marker; ratios are to the row above.
function attention_compare_table(    m, i, part, step, type, row, before, ratios) {
    heading("machine | step | type | bytes predicted | exps a score | ms (p10 to p90) | speed" (wanted[2] ? " | predicted: memory, exps | measured" : ""))
    for (m = 1; m <= machines; m++) {
        before = 0
        for (i = 1; i <= wanted[0]; i++) {
            split(wanted[i] ":" dtype, part, ":")
            step = part[1]
            row = find(m, step, part[2] == "" ? "fp32" : part[2])
            if (!row && part[2] == "") row = find(m, step, "bf16")
            if (!row) continue
            ratios = wanted[2] ? " | | |" : " |"
            if (before) ratios = sprintf(" | %s | %.2fx |", predicted(before, row), cell[before, "median_ms"] / cell[row, "median_ms"])
            print "| " name_at[m] " | " step " | " cell[row, "dtype"] " | " (is_peer(step) ? "" : bytes_name(cell[row, "predicted_bytes"])) " | " \
                (is_peer(step) ? "" : claim(step, cell[row, "dtype"], "exps", "scores")) " | " spread(row) " | " speed(row) ratios
            before = row
        }
    }
    caption("")
}

function predicted(before, row) {
    if (is_peer(cell[before, "step"]) || is_peer(cell[row, "step"])) return ""
    return sprintf("%.3gx, %.2fx", cell[before, "predicted_bytes"] / cell[row, "predicted_bytes"], cell[before, "exps"] / cell[row, "exps"])
}

# The steps that were asked for, and all peers.
function attention_lengths_table(    m, d, k, i, row, type, found, order, n, step, names, name, text, value, tables) {
    split(dtype == "" ? "fp32 bf16" : dtype, type, " ")
    for (m = 1; m <= machines; m++)
        for (d = 1; d in type; d++) {
            split("", found)
            split("", step)
            split("", value)
            for (i = 1; i <= wanted[0]; i++) step[wanted[i]] = sprintf("%02d", i)
            for (row = 1; row <= count; row++)
                if (cell[row, "dtype"] == type[d] && ((cell[row, "step"] in step) || is_peer(cell[row, "step"])) && is_attention(row) && \
                    find(m, cell[row, "step"], type[d], cell[row, "seq_q"]) == row) {
                    if (is_peer(cell[row, "step"])) step[cell[row, "step"]] = cell[row, "step"]
                    else found[cell[row, "seq_q"]] = cell[row, "seq_q"] + 0
                    value[cell[row, "step"], cell[row, "seq_q"]] = digits3(cell[row, "tflop_s"] * unit_of(m)) \
                        (cell[row, "percent"] > 0 ? sprintf(", %.0f %%", cell[row, "percent"]) : "")
                }
            n = sort_keys(found, order)
            if (!n) continue
            names = sort_keys(step, name)
            print (tables++ ? "\n" : "") name_at[m] ", " type[d] ", heads of " shape["dim"] (shape["causal"] ? ", causal" : "") ": " \
                (unit_of(m) == 1 ? "TFLOP/s" : "GFLOP/s") ", and share of the tightest ceiling.\n"
            text = "tokens"
            for (i = 1; i <= names; i++) text = text " | " name[i]
            heading(text)
            for (k = 1; k <= n; k++) {
                text = ""
                for (i = 1; i <= names; i++) text = text " | " value[name[i], order[k]]
                print "| " length_name(order[k]) text " |"
            }
        }
}

# The speed of a machine's numbers: TFLOP/s, or GFLOP/s where multiply-adds are fewer than 1 TFLOP/s.
function unit_of(m,    fma) {
    fma = ceiling(file_at[m], "fma", "fp32", threads_at[m])
    return fma > 0 && fma < 1 ? 1000 : 1
}

# Under a table: its shape, and what its numbers are.
function caption(text,    m, row, batch) {
    for (m = 1; m <= machines; m++)
        for (row = 1; row <= count && is_main[m] && (m in used); row++)
            if (is_attention(row) && usable(row) && on_machine(row, m) && fits(row)) {
                batch = batch (batch ? "; " : "") "batch " cell[row, "batch"] ", " cell[row, "heads"] " head" (cell[row, "heads"] > 1 ? "s" : "") \
                    " on " machine_name(cell[row, "device"], 0)
                break
            }
    printf "\n%s tokens, heads of %s%s (%s).%s\n", shape["seq_q"], shape["dim"], (shape["causal"] ? ", causal" : ""), batch, (text ? " " text : "")
}

function ceilings_table(    m, i, n, line, part, name, names, value, text) {
    text = "machine"
    for (m = 1; m <= machines; m++) {
        n = split(fact[file_at[m], "ceiling"], line, "\n")
        for (i = 1; i <= n; i++) {
            split(line[i], part, " ") # name dtype threads value unit
            if (!((part[1], part[2]) in value)) {
                name[++names] = part[1] SUBSEP part[2]
                text = text " | " part[1] ", " part[2]
            }
            value[part[1], part[2]]
            if (part[3] == threads_at[m]) value[m, part[1], part[2]] = digits3(part[4]) " " part[5]
        }
    }
    heading(text)
    for (m = 1; m <= machines; m++) {
        text = ""
        for (i = 1; i <= names; i++) text = text " | " value[m SUBSEP name[i]]
        print "| " name_at[m] text " |"
    }
}

function machines_table(    m, file) {
    heading("file | device | driver | compiler | system | commit | date")
    for (m = 1; m <= machines; m++) {
        if (!is_main[m]) continue
        file = file_at[m]
        print "| " file " | " machine_name(fact[file, "device"], 0) " | " fact[file, "driver"] " | " fact[file, "compiler"] " | " \
            fact[file, "os"] " | " fact[file, "commit"] " | " fact[file, "date"] " |"
    }
}

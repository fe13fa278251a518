# A page with its tables made again: awk -f results.awk -f tables.awk -v recorded="FILE.tsv ..." -v mains="MAIN.c ..." PAGE.md

BEGIN {
    n = split(mains, path, " ")
    for (i = 1; i <= n; i++) read_claims(path[i])
    n = split(recorded, path, " ")
    for (i = 1; i <= n; i++) add_machines(path[i])
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

# The row of machine m that is asked for, 0 when there is none. Without rows: of that many columns, the largest tensor.
function find(m, step, rows, cols, dtype,    row, best) {
    for (row = 1; row <= count; row++)
        if (cell[row, "step"] == step && cell[row, "cols"] == cols && cell[row, "dtype"] == dtype && usable(row) && \
            file_of[row] == file_at[m] && cell[row, "threads"] == threads_at[m] && (rows == "" || cell[row, "rows"] == rows) && \
            (!best || cell[row, "rows"] + 0 > cell[best, "rows"] + 0))
            best = row
    return best + 0
}

function trips(step) { return step in reads ? reads[step] " + " writes[step] : "" }
function link(step) { return "[" step "](" (FILENAME ~ /^steps\// ? "../" : FILENAME ~ /\// ? "../steps/" : "steps/") step "/README.md)" }
function number(row, column) { return digits3(cell[row, column]) }

# The heading of a table: its columns, divided by |.
function heading(columns,    rule) {
    rule = columns
    gsub(/[^|]+/, "---", rule)
    print "| " columns " |\n|" rule "|"
}

# A column for each machine: its name (row 0), or what it did with a step.
function machine_columns(step, long,    m, row, text) {
    for (m = 1; m <= machines; m++) {
        if (!is_main[m]) continue
        row = find(m, step, rows, cols, dtype)
        text = text " | " (step == "" ? name_at[m] : row ? (long ? number(row, "median_ms") " ms, " : "") number(row, "gb_s") " GB/s, " share(row) : "")
    }
    return text
}

# ---- the kinds of tables. `rows`, `cols`, `dtype`: the shape; wanted[1..]: the steps that the marker names.

function table(marker,    arg, n, i, part) {
    n = split(marker, arg, " ") - 1 # <!-- results KIND ... -->
    rows = 16384; cols = 8192; dtype = "fp32"
    split("", wanted)
    for (i = 4; i <= n; i++) {
        split(arg[i], part, "=")
        if (part[1] == "rows") rows = part[2]
        else if (part[1] == "cols") cols = part[2]
        else if (part[1] == "dtype") dtype = part[2]
        else wanted[++wanted[0]] = arg[i]
    }
    if (!machines) print "(Nothing is recorded yet: `make bench record tables`.)"
    else if (arg[3] == "steps") steps_table()
    else if (arg[3] == "summary") summary_table()
    else if (arg[3] == "compare") compare_table(wanted[1], wanted[2])
    else if (arg[3] == "lengths") lengths_table()
    else if (arg[3] == "ceilings") ceilings_table()
    else if (arg[3] == "machines") machines_table()
    else complain("no such kind of table: " arg[3])
}

function steps_table(    i) {
    heading("step | the one idea | reads + writes" machine_columns(""))
    for (i = 1; i <= steps; i++)
        print "| " link(step_name[i]) " | " idea[step_name[i]] " | " trips(step_name[i]) machine_columns(step_name[i], 1) " |"
    printf "\nx is %d x %d, %s. Median time, useful bandwidth, and its share of a copy's.\n", rows, cols, dtype
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
            (worst ? sprintf("%.1e at %s columns", cell[worst, "error"], length_name(cell[worst, "cols"])) : "") machine_columns(step) " |"
    }
    printf "\nBandwidth, and share of a copy, at %d x %d, %s; the error is the worst of all recorded runs.\n", rows, cols, dtype
}

function compare_table(a, b,    m, i, step, row, ms, ratios) {
    heading("machine | step | reads + writes | exps | ms (p10 to p90) | GB/s | of copy" (b ? " | predicted: memory, exps | measured" : ""))
    for (m = 1; m <= machines; m++) {
        ms = 0
        for (i = 1; i <= (b ? 2 : 1); i++) {
            step = i == 1 ? a : b
            row = find(m, step, rows, cols, dtype)
            if (!row) continue
            ratios = b ? " | | |" : " |"
            if (ms && (a in reads) && (b in reads))
                ratios = sprintf(" | %.2fx, %.2fx | %.2fx |", (reads[a] + writes[a]) / (reads[b] + writes[b]), exps[a] / exps[b], \
                    ms / cell[row, "median_ms"])
            print "| " name_at[m] " | " step " | " trips(step) " | " exps[step] " | " number(row, "median_ms") " (" number(row, "p10_ms") " to " \
                number(row, "p90_ms") ") | " number(row, "gb_s") " | " share(row) ratios
            ms = cell[row, "median_ms"]
        }
    }
    printf "\nx is %d x %d, %s.\n", rows, cols, dtype
}

function lengths_table(    m, d, type, i, k, row, found, order, n, text, copy, tables) {
    split("fp32 fp16 bf16", type, " ")
    for (m = 1; m <= machines; m++)
        for (d = 1; d <= 3; d++) {
            split("", found)
            for (row = 1; row <= count; row++)
                for (i = 1; i <= wanted[0]; i++)
                    if (cell[row, "step"] == wanted[i] && find(m, wanted[i], "", cell[row, "cols"], type[d]) == row)
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
                    row = find(m, wanted[i], "", order[k], type[d])
                    text = " | " (row ? number(row, "gb_s") ", " share(row) : "") text
                    if (row && copy_speed(row)) copy = digits3(copy_speed(row))
                }
                print "| " length_name(order[k]) " | " copy text " |"
            }
        }
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

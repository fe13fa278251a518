# Reading results, for query.awk (plots). README.md describes the format. Plain POSIX awk.

# Reads a table. "# key: value" lines go into fact[file, key] (a repeated key: one a line), rows into cell[row, column name].
# Of runs of the same thing the last counts; `count` is the number of rows so far.
function load(file,    line, names, name, part, part_of_key, i, key, row, status) {
    while ((status = (getline line < file)) > 0) {
        sub(/\r$/, "", line)
        if (line ~ /^# [a-z]+: /) {
            i = index(line, ": ")
            key = file SUBSEP substr(line, 3, i - 3)
            if (key in fact)
                fact[key] = fact[key] "\n" substr(line, i + 2)
            else
                fact[key] = substr(line, i + 2)
        } else if (line ~ /^#/ || line == "") {
            continue
        } else if (!names) {
            names = split(line, name, "\t")
        } else {
            split(line, part, "\t")
            for (i = 1; i <= names; i++)
                part[name[i]] = part[i]
            key = file
            split("step device backend dtype rows cols batch heads kv_heads seq_q seq_k dim causal input threads", part_of_key, " ")
            for (i = 1; i in part_of_key; i++)
                key = key SUBSEP part[part_of_key[i]]
            if (!(key in row_of))
                row_of[key] = ++count
            row = row_of[key]
            for (i = 1; i <= names; i++)
                cell[row, name[i]] = part[i]
            file_of[row] = file
        }
    }
    close(file)
    if (status < 0) {
        printf "%s: cannot be read\n", file > "/dev/stderr"
        failed = 1
    }
}

# Speed and error are worth showing only for right answers, and comparable only on the same kind of input. Peers have no verdict.
function usable(row) {
    return cell[row, "verdict"] != "FAIL" && cell[row, "input"] == "normal" && cell[row, "median_ms"] > 0
}

# The standard deviation of an attention's scores on normal input, of rows that were made to show it (--sweep-scale); 0 of others.
function score_size(row) {
    return cell[row, "input"] ~ /^normal, scale / ? substr(cell[row, "input"], 15) * sqrt(cell[row, "dim"]) : 0
}

function is_peer(step) { return step !~ /^[0-9]/ }
function is_attention(row) { return cell[row, "seq_q"] > 0 }

function shape_of(row) {
    if (!is_attention(row)) return cell[row, "rows"] " x " cell[row, "cols"]
    return sprintf("batch %d, %d head%s of %d, %s tokens%s%s", cell[row, "batch"], cell[row, "heads"], (cell[row, "heads"] > 1 ? "s" : ""), \
        cell[row, "dim"], cell[row, "seq_q"] (cell[row, "seq_k"] == cell[row, "seq_q"] ? "" : " to " cell[row, "seq_k"]), \
        (cell[row, "kv_heads"] == cell[row, "heads"] ? "" : ", " cell[row, "kv_heads"] " of keys"), (cell[row, "causal"] ? ", causal" : ""))
}

# usual[row]: the attention rows that are worth comparing. For each length, dim and mask those of one batch and number of heads, with as
# many keys as queries, and as many key-value heads as heads. Which: those with as many numbers in Q as most rows of the file have
# (a sweep has as many at each length), of these those that most rows have, and then more than one sequence.
function choose_usual(    row, pass, place, key, numbers, n, best) {
    for (pass = 1; pass <= 3; pass++)
        for (row = 1; row <= count; row++) {
            if (!usable(row) || !is_attention(row) || cell[row, "seq_k"] != cell[row, "seq_q"] || cell[row, "kv_heads"] != cell[row, "heads"])
                continue
            place = file_of[row] SUBSEP cell[row, "threads"] SUBSEP cell[row, "seq_q"] SUBSEP cell[row, "dim"] SUBSEP cell[row, "causal"]
            key = place SUBSEP cell[row, "batch"] " x " cell[row, "heads"]
            numbers = file_of[row] SUBSEP cell[row, "batch"] * cell[row, "heads"] * cell[row, "seq_q"] * cell[row, "dim"]
            if (pass == 3 && key == best[place])
                usual[row]
            if (pass == 1) n[numbers]++
            if (pass != 2) continue
            n[key] += n[numbers] * count + 1
            if (n[key] > n[best[place]] || (n[key] == n[best[place]] && cell[row, "batch"] > 1))
                best[place] = key
        }
}

# A rate that step 00 measured: of this file, name, type and number of threads. 0 when there is none.
function ceiling(file, name, dtype, threads,    i, n, line, part) {
    n = split(fact[file, "ceiling"], line, "\n")
    for (i = 1; i <= n; i++) {
        split(line[i], part, " ") # name dtype threads value unit
        if (part[1] == name && part[2] == dtype && part[3] == threads) return part[4] + 0
    }
    return 0
}

# "41 % of matmul": what an attention step reached of the ceiling that would take it longest.
function of_ceiling(row) { return cell[row, "percent"] > 0 ? sprintf("%.0f %% of %s", cell[row, "percent"], cell[row, "ceiling"]) : "" }

function tflops(x) { return x >= 1 ? digits3(x) " TFLOP/s" : digits3(1000 * x) " GFLOP/s" }

# "134 MB"
function bytes_name(bytes,    unit, i) {
    split("B KB MB GB TB PB", unit, " ")
    for (i = 1; bytes >= 999.5 && i < 6; i++) bytes /= 1000
    return digits3(bytes) " " unit[i]
}

# "AMD EPYC 9R14, 2 threads". On a GPU threads is "-".
function machine_name(device, threads) {
    gsub(/\((R|TM)\)/, "", device)
    return device (threads > 0 ? ", " threads " thread" (threads > 1 ? "s" : "") : "")
}

# The numbers of threads that a file has results for, in order[1..n], the most first.
function thread_counts(file, order,    row, seen) {
    split("", seen)
    for (row = 1; row <= count; row++)
        if (file_of[row] == file && (usable(row) || score_size(row))) seen[cell[row, "threads"]] = -cell[row, "threads"]
    return sort_keys(seen, order)
}

# Copy speed beside this row, GB/s: its own, or (peers) that of a step at the same shape. 0 when there is none.
function copy_speed(row,    r) {
    if (cell[row, "copy_gb_s"] > 0)
        return cell[row, "copy_gb_s"] + 0
    for (r = 1; r <= count; r++)
        if (file_of[r] == file_of[row] && cell[r, "copy_gb_s"] > 0 && same(r, row, "device dtype rows cols threads"))
            return cell[r, "copy_gb_s"] + 0
    return 0
}

function same(a, b, columns,    i, column) {
    split(columns, column, " ")
    for (i = 1; i in column; i++)
        if (cell[a, column[i]] != cell[b, column[i]])
            return 0
    return 1
}

# Share of copy speed, "63 %".
function share(row,    copy) {
    copy = copy_speed(row)
    return copy ? sprintf("%.0f %%", 100 * cell[row, "gb_s"] / copy) : "-"
}

# Three significant digits, without an exponent.
function digits3(x,    unit) {
    if (x >= 1000) {
        unit = 10 ^ (int(log(x) / log(10) + 1e-9) - 2)
        return sprintf("%d", int(x / unit + 0.5) * unit)
    }
    return sprintf(x >= 100 ? "%.0f" : x >= 10 ? "%.1f" : x >= 1 ? "%.2f" : x >= 0.1 ? "%.3f" : "%.3g", x)
}

# 131072 is 128 Ki, 1048576 is 1 Mi, 1000 is 1000.
function length_name(n) {
    return n % 1048576 == 0 ? n / 1048576 " Mi" : n % 1024 == 0 ? n / 1024 " Ki" : n
}

# order[1..n]: the keys of `value` by rising value (numbers or strings).
function sort_keys(value, order,    key, n, i) {
    n = 0
    for (key in value) {
        for (i = n++; i > 0 && value[order[i]] > value[key]; i--)
            order[i + 1] = order[i]
        order[i + 1] = key
    }
    return n
}

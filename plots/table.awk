# The terminal's table: awk -f results.awk -f table.awk -v file=FILE

BEGIN {
    load(file)
    for (row = 1; row <= count; row++) {
        if (!usable(row)) continue
        machine = machine_name(cell[row, "device"], cell[row, "threads"])
        part = machine (is_attention(row) ? ": attention, " : ": softmax, ") # a table each
        shape = shape_of(row) (is_attention(row) ? "" : ", " cell[row, "dtype"])
        rows_at[part, shape] = rows_at[part, shape] " " row
        if (!(part in most)) name[++parts] = part
        n = ++steps_at[part, shape]
        if (n > most[part] + 0 || (n == most[part] && shape ~ /^16384 x 8192| of 64, 4096 tokens$/)) {
            most[part] = n
            shape_of_part[part] = shape
        }
    }
    if (!parts) {
        print file ": no right results on random input in it" > "/dev/stderr"
        exit 1
    }
    for (i = 1; i <= parts; i++)
        show(name[i], shape_of_part[name[i]])
    exit failed
}

function show(part, shape,    list, order, step, n, i, row, before, ratios, attends) {
    print part shape
    split(rows_at[part, shape], list, " ")
    for (i in list) step[list[i]] = place_of(list[i])
    n = sort_keys(step, order)
    attends = is_attention(order[1])
    printf "  %-30s %8s %13s %13s   %-32s %8s\n", "", "ms", attends ? "" : "GB/s", attends ? "of ceiling" : "of copy", "times the step before", "error"
    for (i = 1; i <= n; i++) {
        row = order[i]
        ratios = ""
        if (before && follows(row, before))
            ratios = sprintf("%.2f (memory %.2f, exps %.2f)", cell[before, "median_ms"] / cell[row, "median_ms"], \
                cell[before, "predicted_bytes"] / cell[row, "predicted_bytes"], cell[before, "exps"] / cell[row, "exps"])
        printf "  %-30s %8s %13s %13s   %-32s %8.1e\n", cell[row, "step"] (attends ? ", " cell[row, "dtype"] : ""), \
            digits3(cell[row, "median_ms"]), attends ? tflops(cell[row, "tflop_s"]) : digits3(cell[row, "gb_s"]), \
            attends ? of_ceiling(row) : share(row), ratios, cell[row, "error"]
        before = row
    }
    print ""
}

# What a table is sorted by: fp32, then the other types, then the peers; in each the steps.
function place_of(row) {
    return (is_peer(cell[row, "step"]) ? 2 : cell[row, "dtype"] != "fp32") cell[row, "dtype"] cell[row, "step"]
}

# Is this the next step, in the same type?
function follows(row, before) {
    return !is_peer(cell[row, "step"]) && cell[row, "step"] + 0 == cell[before, "step"] + 1 && cell[row, "dtype"] == cell[before, "dtype"]
}

# The terminal's table: awk -f results.awk -f table.awk -v file=FILE

BEGIN {
    load(file)
    for (row = 1; row <= count; row++) {
        if (!usable(row)) continue
        machine = machine_name(cell[row, "device"], cell[row, "threads"])
        shape = cell[row, "rows"] " x " cell[row, "cols"] ", " cell[row, "dtype"]
        rows_at[machine, shape] = rows_at[machine, shape] " " row
        if (!(machine in most)) name[++machines] = machine
        n = ++steps_at[machine, shape]
        if (n > most[machine] + 0 || (n == most[machine] && shape ~ /^16384 x 8192/)) {
            most[machine] = n
            shape_of[machine] = shape
        }
    }
    if (!machines) {
        print file ": no right results on random input in it" > "/dev/stderr"
        exit 1
    }
    for (i = 1; i <= machines; i++)
        show(name[i], shape_of[name[i]])
    exit failed
}

function show(machine, shape,    part, order, step, n, i, row, before, ratios) {
    print machine ": " shape
    printf "  %-21s %8s %8s %8s   %-32s %8s\n", "", "ms", "GB/s", "of copy", "times the step before", "error"
    split(rows_at[machine, shape], part, " ")
    for (i in part) step[part[i]] = cell[part[i], "step"]
    n = sort_keys(step, order)
    for (i = 1; i <= n; i++) {
        row = order[i]
        ratios = ""
        if (before && !is_peer(step[row]) && step[row] + 0 == step[before] + 1)
            ratios = sprintf("%.2f (memory %.2f, exps %.2f)", cell[before, "median_ms"] / cell[row, "median_ms"], \
                cell[before, "predicted_bytes"] / cell[row, "predicted_bytes"], cell[before, "exps"] / cell[row, "exps"])
        printf "  %-21s %8s %8s %8s   %-32s %8.1e\n", step[row], digits3(cell[row, "median_ms"]), digits3(cell[row, "gb_s"]), share(row), \
            ratios, cell[row, "error"]
        before = row
    }
    print ""
}

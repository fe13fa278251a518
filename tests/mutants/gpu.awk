# awk -v mutant=NAME -f gpu.awk gpu.txt FOLDER/gpu.cu: the source of a mutant. Fails unless each replacement fits exactly one line.
FNR == NR {
    if ($1 == "mutant")
        wanted = $2 == mutant
    if (wanted && /^@/)
        after[count + 1] = substr($0, 3)
    if (wanted && /^-/)
        from[++count] = substr($0, 3)
    if (wanted && /^\+/)
        to[count] = substr($0, 3)
    next
}
{
    for (i = 1; i <= count; i++) {
        if (i in after && index($0, after[i]))
            begun[i]++
        if ((i in after ? begun[i] && !found[i] : 1) && (at = index($0, from[i]))) {
            $0 = substr($0, 1, at - 1) to[i] substr($0, at + length(from[i]))
            found[i]++
        }
    }
    print
}
END {
    for (i = 1; i <= count; i++)
        if (found[i] != 1 || (i in after && begun[i] != 1)) {
            print mutant ": in " found[i] + 0 " lines, not in one: " from[i] >"/dev/stderr"
            failed = 1
        }
    if (count == 0)
        print mutant ": there is no such mutant, or it replaces nothing" >"/dev/stderr"
    exit failed || count == 0
}

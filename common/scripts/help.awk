# `make help`: the steps and their ideas, from their main.c; then the targets and their comments, in the order of the Makefile.
# Usage: help.awk steps/*/main.c Makefile tests/tests.mk
BEGIN { print "From softmax to attention. Type make and one of:\n" }
FILENAME ~ /main\.c$/ && /^ *\.name = "/ {
    split($0, quoted, "\"")
    last = substr(quoted[2], 1, 2) + 0
    name = substr(quoted[2], 4)
    gsub(/_/, " ", name)
}
FILENAME ~ /main\.c$/ && /^ *\.idea = "/ {
    split($0, quoted, "\"")
    printf "  %-10s %-25s %s\n", "step-" last, name, quoted[2]
}
/^# ---- what a reader does/ {
    printf "  diff-N     the lines that carry the idea of step N, 0 to %d; ARGS=--html makes a page\n\n", last
}
/^[a-z0-9-]+:.*## / {
    name = $1
    sub(/:.*/, "", name)
    sub(/^[^#]*## /, "")
    printf "  %-10s %s\n", name, $0
}
END {
    print "\nOptions of a step go into ARGS: make step-3 ARGS=\"--rows 1Ki --cols 64Ki\", make step-3 ARGS=--help."
    print "COUNT=1 make step-3 counts the exponentials and merges of its CPU version, and holds its claim to them."
    print "CUDA=0 builds for the CPU alone, ARCH=sm_90a for another GPU than this machine's, CC=clang with another compiler."
}

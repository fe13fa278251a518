# `make help`: the targets and their own comments, in the order of the Makefile.
BEGIN { print "From softmax to attention. Type make and one of:\n" }
/^[a-z0-9-]+:.*## / {
    name = $1
    sub(/:.*/, "", name)
    sub(/^[^#]*## /, "")
    printf "  %-10s %s\n", name, $0
    if (name !~ /^step-/)
        next
    last = substr(name, 6)
}
/^# ---- what a reader does/ {
    printf "  diff-N     the lines that carry the idea of step N, 0 to %d; ARGS=--html makes a page\n\n", last
}
END {
    print "\nOptions of a step go into ARGS: make step-3 ARGS=\"--rows 1Ki --cols 64Ki\", make step-3 ARGS=--help."
    print "CUDA=0 builds for the CPU alone, ARCH=sm_90a for another GPU than this machine's, CC=clang with another compiler."
}

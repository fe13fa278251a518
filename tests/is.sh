# What scripts begin with that say what must be: a folder to work in, $work, which goes away; is(); and counted(), the last thing
# that they do. Sourced: . tests/is.sh
script=$(basename "$0" .sh)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
checks=0 failures=0
is() { # what it is, what it should be, of what
    checks=$((checks + 1))
    [ "$1" = "$2" ] && return
    failures=$((failures + 1))
    printf '%s: %s: got\n%s\nnot\n%s\n' "$script" "$3" "$1" "$2"
}
counted() {
    echo "$script: $checks checks, $failures failures"
    [ $failures = 0 ]
}

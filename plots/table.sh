#!/bin/sh
# A table of results in the terminal: for each device, its steps at the shape that most of them were run at.
#   table.sh [FILE]    build/results.tsv, or FILE
set -eu
export LC_ALL=C # numbers with decimal points, in any language
file=${1:-${RESULTS:-build/results.tsv}}
[ -f "$file" ] || { echo "table: $file: no such file; make bench, or a step, writes it" >&2; exit 1; }
here=$(dirname "$0")
exec awk -f "$here/results.awk" -f "$here/table.awk" -v file="$file"

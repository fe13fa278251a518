#!/bin/sh
# `make plots`: draw what there is to draw of a table of results: as SVG and PNG, and in the terminal.
#   draw.sh [FILE]          FILE: build/results.tsv. Pictures of plots/recorded/M.tsv go beside it, all others into build/plots.
#   draw.sh --text [FILE]   in the terminal alone
set -eu
export LC_ALL=C # numbers with decimal points, in any language
text_only=
[ "${1:-}" != --text ] || { text_only=1; shift; }
file=${1:-${RESULTS:-build/results.tsv}}
command -v gnuplot >/dev/null || { echo "plots: gnuplot is not here; make setup installs it" >&2; exit 1; }
[ -f "$file" ] || { echo "plots: $file: no such file; make bench, or a step, writes it" >&2; exit 1; }
case $file in /*) ;; *) file=$PWD/$file ;; esac
cd "$(dirname "$0")/.."
file=${file#"$PWD/"}

# Results as the programs leave them have no header, and may be of several devices: a file for each.
files=$file
grep -q '^# device: ' "$file" || files=$(RESULTS=$file plots/record.sh --draft)

# Draws one plot, if the file has data for it. The script's exit status 1 and this one line mean that it has none.
plot() { # SCRIPT SETTINGS
    if ! said=$(gnuplot -e "file='$f'; prefix='$prefix'; $2" "plots/$1.gp" 2>&1); then
        case $said in *"nothing to draw"*) return ;; esac
        echo "$said" >&2
        exit 1
    fi
    [ -z "$said" ] || echo "$said"
}

for f in $files; do
    prefix=${f%.tsv}- most=
    dims=$(awk -f plots/results.awk -f plots/query.awk -v file="$f" -v want=dims)
    if [ -z "$text_only" ]; then
        for threads in $(awk -f plots/results.awk -f plots/query.awk -v file="$f" -v want=threads); do # the most first
            [ "$threads" = "${most:=$threads}" ] || prefix=${f%.tsv}-threads-$threads-
            plot steps "threads='$threads'"
            plot error "threads='$threads'"
            for dtype in fp32 fp16 bf16; do plot lengths "threads='$threads'; dtype='$dtype'"; done
            plot attention-steps "threads='$threads'"
            plot roofline "threads='$threads'"
            for dtype in fp32 fp16 bf16; do plot attention-scale "threads='$threads'; dtype='$dtype'"; done
            for dtype in fp32 bf16; do
                plot error "threads='$threads'; part='attention'; dtype='$dtype'"
                for dim in $dims; do plot attention-tflops "threads='$threads'; dim='$dim'; dtype='$dtype'"; done
            done
        done
        [ -z "$dims" ] || plot memory "prefix='${f%/*}/'" # the same on every machine
        echo "drawn: ${f%.tsv}-*.svg and .png"
    fi
    plot steps "term='dumb'"
    plot lengths "term='dumb'"
    plot attention-steps "term='dumb'"
    for dtype in fp32 bf16; do plot attention-tflops "term='dumb'; dim='${dims%%[!0-9]*}'; dtype='$dtype'"; done
done

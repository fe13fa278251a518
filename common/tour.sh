#!/bin/sh
# `make tour`: every step in order, on real input and on the default shape; then the plots, a table and a plot in the terminal.
# Usage: tour.sh PROGRAM...
set -u
results=build/tour.tsv
log=build/tour.log
rm -f $results $log
export RESULTS=$results
began=$(date +%s)

echo "The tour: $(($# - 1)) steps, each checked against a reference in double precision. What the programs say is kept in $log."
failed=0
for program; do
    step=${program##*/}
    printf '  %-22s' "$step"
    if [ "$step" = 00_ceilings ]; then
        if "$program" --budget 1 >>$log 2>&1; then echo "this machine's ceilings measured"; else echo "FAILED: see $log"; failed=1; fi
        continue
    fi
    if "$program" --input real --rows 16Ki --budget 0.5 >>$log 2>&1; then real=pass; else real=FAIL; failed=1; fi
    if "$program" --budget 2 >>$log 2>&1; then random=pass; else random=FAIL; failed=1; fi
    printf 'real input: %s; 16384 x 8192: %s' $real $random
    tail -n 2 $results | awk -F '\t' -v step="$step" '
        $1 == step && $5 == 16384 { printf "; %s %.4g ms, %.3g GB/s", $3 == "cuda" ? "gpu" : "cpu", $18, $25 }'
    echo
done
echo "  took $(($(date +%s) - began)) s"
echo
plots/table.sh $results
if command -v gnuplot >/dev/null 2>&1; then
    plots/draw.sh $results
    for recorded in plots/recorded/h100.tsv; do # what these steps do on a GPU, for those who have none
        [ -f $recorded ] && ! grep -q "cuda" $results && plots/draw.sh --text $recorded
    done
else
    echo "No plots: gnuplot is not here; make setup installs it."
fi
[ $failed = 0 ] || echo "Something failed: see $log."
exit $failed

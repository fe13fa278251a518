#!/bin/sh
# `make tour`: every step in order, on real input and on the default shape; then the plots, a table and a plot in the terminal.
# Usage: tour.sh PROGRAM...
export LC_ALL=C # numbers with decimal points, in any language
set -u
results=build/tour.tsv
log=build/tour.log
rm -f $results $log
export RESULTS=$results
began=$(date +%s)

echo "The tour: $(($# - 1)) steps, each checked against a reference in double precision. What the programs say is kept in $log."
failed=0
lines() { if [ -f $results ]; then wc -l <$results; else echo 0; fi; } # of the table: each run adds one
for program; do
    step=${program##*/}
    printf '  %-31s' "$step"
    if [ "$step" = 00_ceilings ]; then
        if "$program" --budget 1 >>$log 2>&1; then echo "this machine's ceilings measured"
        else echo "FAILED: see $log"; failed=1
        fi
        continue
    fi
    case $(common/scripts/kind.sh "$program") in
    softmax) real="--rows 16Ki" random="16384 x 8192" ;;
    decoding) real=--causal random="one query" ;;
    attention) real=--causal random="16 heads, 2048 tokens" ;;
    esac
    before=$(lines)
    if "$program" --input real $real --budget 0.5 >>$log 2>&1; then one=pass; else one=FAIL failed=1; fi
    middle=$(lines)
    if "$program" --budget 1 >>$log 2>&1; then two=pass; else two=FAIL failed=1; fi
    if [ "$(lines)" = "$before" ]; then
        tail -n 6 $log | grep -E "skipped" | tail -n 1 | sed 's/^ *//'
        continue
    fi
    printf 'real input: %s; %s: %s' $one "$random" $two
    awk -F '\t' -v middle=$((middle)) '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i }
        NR > 1 && NR > middle {
            printf "; %s %.4g ms, ", $at["backend"] == "cuda" ? "gpu" : "cpu", $at["median_ms"]
            if ($at["rows"] != "-" || $at["ceiling"] == "read") printf "%.3g GB/s", $at["gb_s"]
            else printf "%.3g GFLOP/s", 1000 * $at["tflop_s"]
        }' $results
    echo
done
echo "  took $(($(date +%s) - began)) s"
echo
if ! command -v python3 >/dev/null 2>&1; then
    echo "No table and no plots: they need python3; make setup installs it."
else
    python3 plots/results.py table $results
    if command -v gnuplot >/dev/null 2>&1; then
        python3 plots/results.py plots $results
        for recorded in plots/recorded/h100.tsv; do # what these steps do on a GPU, for those who have none
            [ -f $recorded ] && ! grep -q "cuda" $results && python3 plots/results.py plots --text $recorded
        done
    else
        echo "No plots: gnuplot is not here; make setup installs it."
    fi
fi
[ $failed = 0 ] || echo "Something failed: see $log."
exit $failed

#!/bin/sh
# `make bench`: every step at every row length, in every type that it has, on every device. Rows go to
# build/results.tsv, which is begun anew unless BENCH_KEEP=1. BENCH_ARGS goes to every program (BENCH_ARGS="--device gpu --budget
# 0.3"), BENCH_DTYPES chooses among the 16-bit types.
export LC_ALL=C # numbers with decimal points, in any language
set -eu
results=${RESULTS:-build/results.tsv}
[ -n "${BENCH_KEEP:-}" ] || rm -f "$results"

# Whether the step has this type where BENCH_ARGS has it timed: a program that has nothing to time ends with status 1.
has() {
    case "$step $1 ${BENCH_ARGS:-}" in
    "37_"*" fp32 "* | "38_"*" fp32 "* | "39_"*" fp32 "* | "40_"*" fp32 "* | "4"[456]_*"16 "*) return 1 ;;
    "41_"*" fp32 "*"--device gpu"* | "42_"*"16 "*"--device gpu"* | "47_"*"16 "*"--device gpu"*) return 1 ;;
    esac
}

# BENCH_TOKENS tokens in all, hidden size 2048: head dimensions 64 and 128, every length, with and without a mask. (A CPU wants
# fewer.) Slow steps, and fp16, which is as fast as bf16, at one length alone. And the error against the size of the scores.
attention() {
    case $step in
    11_* | 1[345]_* | 4[3456]_* | 68_* | 69_* | 70_*) types=fp32 ;;
    12_* | 47_*) types="fp32 ${BENCH_DTYPES:-fp16 bf16}" ;;
    *) types=${BENCH_DTYPES:-fp16 bf16} ;;
    esac
    for dtype in $types; do
        has $dtype || continue
        "$1" --dtype $dtype ${BENCH_ARGS:-}
        "$1" --dtype $dtype --sweep-scale --heads 8 --seq 1024 --reps 1 ${BENCH_ARGS:-}
        for size in "--dim 64 --heads ${BENCH_HEADS:-32}" "--dim 128 --heads $((${BENCH_HEADS:-32} / 2))"; do
            case $step$dtype in
            1[45]_* | 68_* | 69_* | 70_* | *bf16)
                for mask in "" --causal; do
                    "$1" --dtype $dtype --batch 1 --seq ${BENCH_TOKENS:-16384} --sweep $size $mask ${BENCH_ARGS:-}
                done ;;
            *) "$1" --dtype $dtype --batch 4 --seq $((${BENCH_TOKENS:-16384} / 4)) $size ${BENCH_ARGS:-} ;;
            esac
        done
    done
}

# One query: the step's own problem, and with as many keys in all caches of every length; and models that write a token.
decoding() {
    for dtype in fp32 ${BENCH_DTYPES:-fp16 bf16}; do
        has $dtype || continue
        "$1" --dtype $dtype ${BENCH_ARGS:-}
        case $step in # keys of a page, in place of keys of a cache
        41_*) for size in 1 4 16 64 256; do "$1" --dtype $dtype --page-size $size ${BENCH_ARGS:-}; done ;;
        *) "$1" --dtype $dtype --sweep ${BENCH_ARGS:-} ;;
        esac
        for shape in llama3-8b-token llama3-70b-token; do
            "$1" --dtype $dtype --shape $shape ${BENCH_ARGS:-}
        done
    done
}

for program; do
    step=${program##*/}
    if [ "$step" = 00_ceilings ]; then
        "$program" ${BENCH_ARGS:-}
        continue
    fi
    kind=$(common/scripts/kind.sh "$program")
    if [ $kind != softmax ]; then
        $kind "$program"
        continue
    fi
    "$program" --sweep ${BENCH_ARGS:-}
    "$program" ${BENCH_ARGS:-}  # the default shape once more, in full: the row that the plots of all steps show
    case $step in
    42_*)
        for dtype in ${BENCH_DTYPES:-fp16 bf16}; do
            has $dtype || continue
            "$program" --dtype $dtype ${BENCH_ARGS:-}
        done ;;
    0[789]_* | 10_*)
        for dtype in ${BENCH_DTYPES:-fp16 bf16}; do
            "$program" --sweep --rows 32Ki --dtype $dtype ${BENCH_ARGS:-}
            for cols in 1000 1023 4097 12345; do
                "$program" --dtype $dtype --rows $((268435456 / cols)) --cols $cols ${BENCH_ARGS:-}
            done
        done
        for cols in 1000 1023 4097 12345; do
            "$program" --rows $((134217728 / cols)) --cols $cols ${BENCH_ARGS:-}
        done ;;
    esac
    case $step in
    09_* | 10_*)
        "$program" --rows 16 --cols 1Mi ${BENCH_ARGS:-}
        "$program" --rows 1 --cols 16Mi ${BENCH_ARGS:-} ;;
    esac
done
echo "bench: $results has $(($(wc -l <"$results") - 1)) rows"

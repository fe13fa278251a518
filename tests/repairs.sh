#!/bin/sh
# `make repairs`: how often step 32 repairs, on which input, counted by a build with -DTIMELINE. Fails where that is not what its
# lesson says: never on ordinary input, always on falling scores, and never for nothing. Usage: B=build/debug tests/repairs.sh
set -u
program=$B/32_optimistic_attention
export RESULTS="$B/results.tsv" SMALL_PROBLEMS=0
if ! nvidia-smi >/dev/null 2>&1; then
    echo "repairs: skipped: there is no GPU here"
    exit 0
fi
status=0
# name, what the share of repaired blocks must be ("any": whatever it is), options
count() {
    name=$1 must=$2
    shift 2
    line=$("$program" --device gpu --reps 1 "$@" | grep '^    repairs') ||
        { echo "repairs: $name: nothing was counted" >&2; status=1; return; }
    printf '%-28s%s\n' "$name" "$line"
    case "$line" in
    *"; 0 changed nothing"*) ;;
    *) echo "repairs: $name: a repair must change what it repairs" >&2; status=1 ;;
    esac
    case "$must, $line" in
    none,*" 0 of "* | all,*", 100 %"* | any,*) ;;
    *) echo "repairs: $name: should have been $must" >&2; status=1 ;;
    esac
}
for dtype in bf16 fp16; do
    for dim in 64 128; do
        shape="--dtype $dtype --heads 16 --seq 4096 --dim $dim"
        count "$dtype, $dim, normal" none $shape
        count "$dtype, $dim, rising" none $shape --input rising
        count "$dtype, $dim, plateau" none $shape --input plateau
        count "$dtype, $dim, falling" all $shape --input falling
        count "$dtype, $dim, peak" any $shape --input peak
        count "$dtype, $dim, large" any $shape --input large
        count "$dtype, $dim, adversarial" any $shape --input adversarial
    done
    count "$dtype, real" any --dtype $dtype --input real
    count "$dtype, real, causal" any --dtype $dtype --input real --causal
done
exit $status

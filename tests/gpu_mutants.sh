#!/bin/sh
# `make mutants`: every mutant of tests/mutants/gpu.txt must be caught by its check, which the step as it is must pass. A mutant may
# hang, or leave the GPU with an error: each runs in a process of its own, under a timeout. Usage: B=build/cuda tests/gpu_mutants.sh
# With --check: only that every replacement fits its file; needs neither a GPU nor nvcc. With --make NAME FOLDER: writes a mutant's
# source, gpu.cu, and the header if that is what is changed; files that would stay the same are left alone.
set -u
LIMIT=${LIMIT:-60} # seconds for one check
table=tests/mutants/gpu.txt
field() { awk -v m="$1" -v f="$2" '$1 == "mutant" { on = $2 == m } on && $1 == f { sub(/^[^ ]* */, ""); print }' $table; }
check() { CK_RUN_SUITE=attention_gpu TESTS_STEPS=$2 TESTS_CHECK=$3 timeout -k 5 $LIMIT "$1" >"$log" 2>&1; }
file_of() { f=$(field "$1" file); echo "${f:-steps/$(field "$1" step)/gpu.cu}"; }
mutate() { awk -v mutant="$1" -f tests/mutants/gpu.awk $table "$(file_of "$1")"; }
keep() { mkdir -p "$(dirname "$1")" && cat >"$1.new" && if cmp -s "$1.new" "$1"; then rm "$1.new"; else mv "$1.new" "$1"; fi; }
status=0
mutants=$(awk '$1 == "mutant" { print $2 }' $table)

if [ "${1:-}" = --check ]; then
    for m in $mutants; do
        mutate $m >/dev/null || status=1
    done
    exit $status
fi
if [ "${1:-}" = --make ]; then
    file=$(file_of "$2") source=steps/$(field "$2" step)/gpu.cu
    mutate "$2" >/dev/null || exit 1
    [ "$file" = "$source" ] || mutate "$2" | keep "$3/${file#*/}" # where -I finds it before the true one
    if [ "$file" = "$source" ]; then mutate "$2"; else cat "$source"; fi | keep "$3/gpu.cu"
    exit
fi
if ! nvidia-smi >/dev/null 2>&1; then
    echo "GPU mutants: skipped: there is no GPU here"
    exit 0
fi
passed='|' # step and check, of those steps that have passed
for m in ${MUTANTS:-$mutants}; do
    step=$(field $m step) caught=$(field $m caught) log=$B/mutants/$m/log
    case $passed in
    *"|$step $caught|"*) ;;
    *)
        if ! check "$B/main_gpu" "${step%%_*}" "$caught"; then
            echo "$step: it does not pass '$caught' itself:"; tail -n 5 "$log"; status=1
        elif grep '^skipped' "$log"; then
            continue
        fi
        passed="$passed$step $caught|" ;;
    esac
    check "$B/mutants/$m/main_gpu" "${step%%_*}" "$caught"
    result=$? why=$(grep -E ':F:|on the GPU.*: ' "$log" | tail -n 1) # a check has failed, or CUDA has
    case $result in
    0) echo "$m: NOT CAUGHT by '$caught'"; status=1 ;;
    124 | 137) echo "$m: caught by '$caught': it hangs" ;;
    *)
        if [ -n "$why" ]; then
            echo "$m: caught by '$caught': ${why#*:F:*: }" | cut -c 1-200
        else
            echo "$m: it did not run:"; tail -n 5 "$log"; status=1
        fi ;;
    esac
done
exit $status

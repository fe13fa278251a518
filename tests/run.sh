#!/bin/sh
# `make test`: pages and scripts; the GPU suites, under a timeout, because a hung kernel hangs its program; the CPU suites. All at
# once, each suite, of the GPU's each case, in a process of its own. With SUITE or CASE: what they name, and nothing else.
# Usage: B=build/cpu tests/run.sh, with SUITE or CASE to choose. Check's own counts are the last lines of each.
set -u
[ -n "${SUITE:-}" ] && export CK_RUN_SUITE="$SUITE"
[ -n "${CASE:-}" ] && export CK_RUN_CASE="$CASE"
GPU_SECONDS=${GPU_SECONDS:-900}
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} # threads that wait must not take a core from those that work
if command -v timeout >/dev/null 2>&1; then limit="timeout $GPU_SECONDS"; else limit=; fi
cores=$(nproc 2>/dev/null || echo 1)
jobs=$((cores / 4)) # suites at a time
[ $jobs -ge 2 ] || jobs=2
status=0

scripts() {
    bad=0
    for script; do
        python3 $script || bad=1
    done
    return $bad
}

pages() {
    bad=0
    tests/platform.sh || bad=1
    tests/library.sh || bad=1
    if ! command -v python3 >/dev/null 2>&1; then
        echo "tests: tables, plots and the lists of mutants are not checked: they need python3, which make setup installs" >&2
        return 1
    fi
    scripts "plots/results.py tables --check" plots/test_results.py "tests/mutate.py check" \
        $(ls tests/test_*.py | grep -v -e exercise -e quiz) || bad=1
    return $bad
}

gpu() {
    $limit "$B/main_gpu"
    code=$?
    [ $code -ne 124 ] || echo "GPU tests: still running after $GPU_SECONDS s: a kernel hangs" >&2
    return $code
}

if [ -n "${CK_RUN_SUITE:-}${CK_RUN_CASE:-}" ]; then
    gpu || status=1
    "$B/main_cpu" || status=1
    exit $status
fi

# A process for each suite: what it prints is shown when it ends.
background=
start() {
    name=$1
    shift
    { "$@" >"$B/suite-$name.log" 2>&1; code=$?; cat "$B/suite-$name.log"; exit $code; } &
    background="$background $!"
}
trap 'kill $background 2>/dev/null; exit 130' INT TERM
if nvidia-smi >/dev/null 2>&1; then
    for suite in $(grep -o '[a-z_]*_suite,\|[a-z_]*_suite }' tests/main_gpu.c | sed 's/_suite.*//'); do
        file=$(grep -l "suite_create(\"$suite\")" tests/*.c)
        cases=$(sed -n "/suite_create(\"$suite\")/,\$p" "$file" | grep -o 'tcase_create("[^"]*")' | cut -d '"' -f 2)
        for case in $cases; do # names of one word
            export CK_RUN_SUITE=$suite CK_RUN_CASE=$case
            if [ "$suite" = attention_gpu ]; then # the longest: a process for each dtype
                for dtype in fp32 fp16 bf16; do
                    export TESTS_DTYPE=$dtype
                    start "$suite-$case-$dtype" gpu
                done
                unset TESTS_DTYPE
            else
                start "$suite-$case" gpu
            fi
        done
    done
    unset CK_RUN_SUITE CK_RUN_CASE
else
    gpu || status=1
fi
CK_RUN_SUITE=timing "$B/main_cpu" || status=1 # alone, but for the GPU's
start pages pages
if command -v python3 >/dev/null 2>&1; then
    start exercises scripts tests/test_quiz.py tests/test_exercise.py # one after the other: both build in build/cpu
fi
export CK_DEFAULT_TIMEOUT=60                  # seconds a test: others run beside it
tests/suites.sh "$B/main_cpu" $jobs timing || status=1
for process in $background; do
    wait $process || status=1
done
exit $status

#!/bin/sh
# `make test`: the GPU suites, in one process and under a timeout, because a hung kernel hangs its program; and beside them the
# CPU suites.
# Usage: B=build/cpu tests/run.sh, with SUITE or CASE to choose. Check's own counts are the last lines.
set -u
[ -n "${SUITE:-}" ] && export CK_RUN_SUITE="$SUITE"
[ -n "${CASE:-}" ] && export CK_RUN_CASE="$CASE"
GPU_SECONDS=${GPU_SECONDS:-900}
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} # threads that wait must not take a core from those that work
status=0

if command -v python3 >/dev/null 2>&1; then
    python3 plots/results.py tables --check || status=1
    python3 plots/test_results.py || status=1
    python3 tests/mutate.py check || status=1
    python3 tests/test_mutate.py || status=1
    python3 tests/test_diff.py || status=1
    python3 tests/test_pages.py || status=1
else
    echo "tests: tables, plots and the lists of mutants are not checked: they need python3, which make setup installs" >&2
    status=1
fi
tests/platform.sh || status=1

# The GPU's suites, and beside them the CPU's, several at a time where there are many cores.
cores=$(nproc 2>/dev/null || echo 1)
jobs=$((cores / 4))
if command -v timeout >/dev/null 2>&1; then limit="timeout $GPU_SECONDS"; else limit=; fi
$limit "$B/main_gpu" &
gpu=$!
trap 'kill $gpu 2>/dev/null; exit 130' INT TERM
if [ $jobs -le 1 ] || [ -n "${CK_RUN_SUITE:-}${CK_RUN_CASE:-}" ]; then
    wait $gpu
    code=$?
    "$B/main_cpu" || status=1
else
    CK_RUN_SUITE=timing "$B/main_cpu" || status=1 # alone, but for the GPU's
    export CK_DEFAULT_TIMEOUT=60                  # seconds a test: others run beside it
    grep -o '[a-z_]*_suite,' tests/main_cpu.c | sed 's/_suite,//; /^timing$/d' | xargs -P $jobs -I{} sh -c '
        CK_RUN_SUITE={} "$B/main_cpu" >"$B/suite-{}.log" 2>&1; code=$?; cat "$B/suite-{}.log"; exit $code' || status=1
    wait $gpu
    code=$?
fi
[ $code -ne 124 ] || echo "GPU tests: still running after $GPU_SECONDS s: a kernel hangs" >&2
[ $code -eq 0 ] || status=1
exit $status

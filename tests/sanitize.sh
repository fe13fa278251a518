#!/bin/sh
# `make sanitize`: the CPU suites with AddressSanitizer and UBSan, a test a process, so that a finding is that test's failure; and
# every GPU step under compute-sanitizer, tool by tool, where it is installed and there is a GPU, on the small cases that CASES
# names. With --gpu: only these. With --threads: only rings whose ranks are threads, and threads that call the library, under
# ThreadSanitizer, which sees nothing of what processes do to each other, and does not know how OpenMP waits: hence without both.
# TOOLS="racecheck" chooses tools; CASES=all takes every GPU test, which is a matter of an hour.
set -eu
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} # threads that wait must not take a core from those that work
export TESTS_SMALL=1
B=${B:-build/cuda}
LIMIT=${LIMIT:-300} # seconds for one tool on one case
# Softmax: every check, small. Attention: masks and grouped heads; every ragged length; maxima that rise tile after tile, and with
# them rescaling and repairs; the boundaries between tiles and blocks that stay. Words are a suite and, behind a colon, a check (_
# is a space), or behind a slash Check's name of a case: softmax's broken kernels, another case, are found by these tools, too.
attention="attention_gpu:grouped_heads attention_gpu:causal attention_gpu:falling attention_gpu:borders"
CASES=${CASES:-softmax_gpu/checks $attention layout_gpu}

threads() {
    flags="-O1 -g1 -fsanitize=thread -Wno-unknown-pragmas"
    make CUDA=0 B=build/threads OPENMP=-fopenmp-simd CFLAGS="$flags" -j"$(nproc)" build/threads/ring_threads \
        build/threads/library_threads
    for program in ring_threads library_threads; do
        TSAN_OPTIONS="halt_on_error=1 ${TSAN_OPTIONS:-}" build/threads/$program
    done
}
if [ "${1:-}" = --threads ]; then
    threads
    exit 0
fi

if [ "${1:-}" != --gpu ]; then
    threads
    flags="-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
    make CUDA=0 B=build/sanitize CFLAGS="$flags" -j"$(nproc)" all build/sanitize/main_cpu
    export CK_TIMEOUT_MULTIPLIER=20 OMP_NUM_THREADS=2
    # All suites but two that run what the others run once more: golden, the same kernels on longer problems, and mutants.
    tests/suites.sh build/sanitize/main_cpu "$(nproc)" golden mutants
fi

if ! command -v compute-sanitizer >/dev/null 2>&1 || ! nvidia-smi >/dev/null 2>&1; then
    echo "compute-sanitizer: skipped: it, or a GPU, is not here"
    exit 0
fi
[ "${1:-}" = --gpu ] || make -s "$B/main_gpu"
status=0
for tool in ${TOOLS:-memcheck racecheck initcheck synccheck}; do
    for case in $CASES; do
        echo "compute-sanitizer --tool $tool, $case"
        (
            [ "$case" = all ] || export CK_RUN_SUITE="${case%%[:/]*}"
            case $case in */*) export CK_RUN_CASE="${case#*/}" ;; esac
            case $case in *:*) TESTS_CHECK=$(echo "${case#*:}" | tr _ ' ') && export TESTS_CHECK ;; esac
            timeout "$LIMIT" compute-sanitizer --tool "$tool" --error-exitcode 1 "$B/main_gpu"
        ) || { echo "compute-sanitizer --tool $tool, $case: it found something, or took more than $LIMIT s" >&2; status=1; }
    done
done
exit $status

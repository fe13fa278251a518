#!/bin/sh
# `make sanitize`: the CPU suites with AddressSanitizer and UBSan, a test a process, so that a finding is that test's failure; and
# the GPU suites under compute-sanitizer, tool by tool, where it is installed and there is a GPU. With --gpu: only these.
set -eu
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} # threads that wait must not take a core from those that work
export TESTS_SMALL=1
B=${B:-build/cuda}
LIMIT=${LIMIT:-900} # seconds for one tool

if [ "${1:-}" != --gpu ]; then
    flags="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
    make CUDA=0 B=build/sanitize CFLAGS="$flags" all build/sanitize/main_cpu
    CK_TIMEOUT_MULTIPLIER=20 OMP_NUM_THREADS=2 build/sanitize/main_cpu
fi

if ! command -v compute-sanitizer >/dev/null 2>&1 || ! nvidia-smi >/dev/null 2>&1; then
    echo "compute-sanitizer: skipped: it, or a GPU, is not here"
    exit 0
fi
[ "${1:-}" = --gpu ] || make -s "$B/main_gpu"
status=0
for tool in ${TOOLS:-memcheck racecheck initcheck synccheck}; do
    echo "compute-sanitizer --tool $tool"
    timeout "$LIMIT" compute-sanitizer --tool "$tool" --error-exitcode 1 "$B/main_gpu" || status=1
done
exit $status

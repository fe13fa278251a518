#!/bin/sh
# `make sanitize`: the CPU suites with AddressSanitizer and UBSan, a test a process, so that a finding is that test's failure; and
# the GPU suites under compute-sanitizer, tool by tool, where it is installed and there is a GPU.
set -eu
flags="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
make CUDA=0 B=build/sanitize CFLAGS="$flags" all build/sanitize/main_cpu
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} # threads that wait must not take a core from those that work
CK_TIMEOUT_MULTIPLIER=20 OMP_NUM_THREADS=2 TESTS_SMALL=1 build/sanitize/main_cpu

if ! command -v compute-sanitizer >/dev/null 2>&1 || ! nvidia-smi >/dev/null 2>&1; then
    echo "compute-sanitizer: skipped: it, or a GPU, is not here"
    exit 0
fi
for tool in memcheck racecheck initcheck synccheck; do
    echo "compute-sanitizer --tool $tool"
    TESTS_SMALL=1 compute-sanitizer --tool $tool --error-exitcode 1 build/cuda/main_gpu
done

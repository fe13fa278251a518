#!/bin/sh
# Builds the CPU half for 64-bit ARM with a cross compiler, all of it and with warnings as errors, and runs a short part of the
# tests under qemu-user. Needs Debian's gcc-aarch64-linux-gnu and qemu-user; Check for ARM is downloaded into build/ and not
# installed.
set -eu
root=build/aarch64-root
run="qemu-aarch64 -L /usr/aarch64-linux-gnu"
if [ ! -f "$root/usr/include/check.h" ]; then
    rm -rf "$root"
    mkdir -p "$root/lists/partial" "$root/archives/partial"
    own="-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists=$PWD/$root/lists -o Dir::Cache=$PWD/$root"
    apt-get $own update -qq
    (cd "$root" && apt-get $own -o APT::Sandbox::User=root download -qq check libsubunit-dev)
    for package in "$root"/*.deb; do dpkg -x "$package" "$root"; done
fi
libraries=$root/usr/lib/aarch64-linux-gnu
B=build/aarch64
make --no-print-directory -j2 CUDA=0 CC=aarch64-linux-gnu-gcc CFLAGS=-O3 CBLAS= B=$B WERROR=-Werror \
    CHECK="-I$root/usr/include -L$libraries -lcheck_pic -lrt -lm -lsubunit" all $B/main_cpu $B/library_threads
export TESTS_SMALL=1 CK_FORK=no OMP_NUM_THREADS=2 RESULTS=$B/results.tsv FLUSH_LIMIT=1
for suite in ${SUITES:-merge half npy vexp softmax_cpu}; do
    CK_RUN_SUITE=$suite $run $B/main_cpu
done
$run $B/library_threads
$run $B/15_register_tiled_attention --heads 2 --seq 200 --dim 64 --reps 1 --budget 0.1 --device cpu

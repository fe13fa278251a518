#!/bin/sh
# `make fuzz`: libFuzzer throws bytes at the .npy reader, words at the command line and arguments at the library, for a minute
# together. Needs clang.
# Usage: fuzz.sh [SECONDS]. What breaks a harness is kept in build/fuzz.
set -eu
seconds=$((${1:-60} / 3))
command -v clang >/dev/null || { echo "fuzz: clang, with its sanitizer runtime, is needed and not here" >&2; exit 1; }
mkdir -p build/fuzz
sources="common/harness/file.c common/harness/npy.c common/harness/input.c common/harness/reference.c \
         common/harness/device.c common/harness/gpu_none.c common/harness/machine.c common/harness/memory.c \
         common/harness/timing.c"
for harness in npy options; do
    corpus=build/fuzz/$harness.corpus
    mkdir -p $corpus
    more=common/harness/error.c
    [ $harness = npy ] || more=common/harness/options.c # the harness has errors of its own, which do not exit
    clang -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -Icommon -Icommon/harness -Isteps -Itests \
        tests/fuzz_$harness.c $sources $more -lm -o build/fuzz/fuzz_$harness
    if [ $harness = npy ]; then
        for seed in tests/data/*.npy; do head -c 200 $seed >$corpus/$(basename $seed); done
    fi
    echo "fuzzing: $harness, $seconds s"
    build/fuzz/fuzz_$harness -max_total_time=$seconds -max_len=4096 -rss_limit_mb=4096 -artifact_prefix=build/fuzz/ \
        -print_final_stats=1 $corpus >build/fuzz/$harness.log 2>&1 || { tail -30 build/fuzz/$harness.log; exit 1; }
    grep -E "stat::number_of_executed_units" build/fuzz/$harness.log
done

# The library's objects by clang, as the library is made, but for threads: OpenMP is none of what is looked for.
mkdir -p build/fuzz/library.corpus
flags="-std=gnu11 -g -O1 -fno-math-errno -fsanitize=address,undefined -fno-sanitize-recover=undefined -fopenmp-simd"
objects=
for source in $(ls common/library/*.c steps/07_*/cpu.c steps/1[05]_*/cpu.c steps/35_*/cpu.c steps/4[127]_*/cpu.c); do
    object=build/fuzz/$(echo "$source" | tr / -).o
    case $source in # step 10 opens no stream at NULL + 0, which C does not allow and everybody takes
        steps/*) inside="-include common/library/inside.h -fno-sanitize=pointer-overflow" ;;
        *) inside= ;;
    esac
    # shellcheck disable=SC2086
    clang $flags -fsanitize=fuzzer-no-link -Icommon -Isteps -Icommon/library $inside -Wno-pass-failed -c $source -o $object
    objects="$objects $object"
done
clang -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -Icommon/library tests/fuzz_library.c $objects -lm \
    -o build/fuzz/fuzz_library
echo "fuzzing: library, $seconds s"
build/fuzz/fuzz_library -max_total_time=$seconds -max_len=200 -rss_limit_mb=4096 -artifact_prefix=build/fuzz/ \
    -print_final_stats=1 build/fuzz/library.corpus >build/fuzz/library.log 2>&1 || { tail -30 build/fuzz/library.log; exit 1; }
grep -E "stat::number_of_executed_units" build/fuzz/library.log

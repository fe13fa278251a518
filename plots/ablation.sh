#!/bin/sh
# What is each idea of step 12 worth? Builds the step with one of them taken away at a time, and times all of them on a GPU.
#   plots/ablation.sh [--dim 128 --seq 4096 ...]    options as `make step-12 ARGS=...` takes them
# A variant whose results are wrong is not timed. Programs are kept in build/ablation, and built again when gpu.cu is newer.
set -eu
cd "$(dirname "$0")/.."
step=12_pipelined_attention at=build/ablation

# Step 11's softmax: scores scaled, exp instead of 2^x, O rescaled for every tile.
softmax='s/^#define LAG .*/#define LAG 0.0f/
    /if (!__any_sync(ALL_LANES, exceeded/,/return;/d
    s/fmaxf(m\[i \/ 2\], s\[n\]\[i\])/fmaxf(m[i \/ 2], s[n][i] *= c \/ LOG2E)/
    s/follow(r, m, c)/follow(r, m, LOG2E)/
    s/r->m\[h\] \* c;/r->m[h];/
    s/ex2(s\[n\]\[i\] \* c - below)/__expf(s[n][i] - below)/
    s/r->m\[h\] \* scale + logf/r->m[h] + logf/'
swizzle='s/(chunk ^ row % 8) \* 16/chunk * 16/'
pipeline='/copy_tile<T, DIM, BC>(copy_at + next + STAGES/a cp_async_wait_all();'
reuse='s/^#define PARTS 2 /#define PARTS 1 /'
lag='s/^#define LAG .*/#define LAG 0.0f/'
one='s/int bytes = .*/int bytes = 120 * 1024;/'  # so much shared memory that an SM has room for one block, and not for two

# The edit of gpu.cu, for sed, that makes a variant.
edit() {
    case $1 in
    whole) ;;
    no-swizzle) echo "$swizzle" ;;
    no-pipeline) echo "$pipeline" ;;
    no-reuse) echo "$reuse" ;;
    no-lag) echo "$lag" ;;
    exp-softmax) echo "$softmax" ;;
    one-block) echo "$one" ;;
    one-no-pipe) printf '%s\n' "$one" "$pipeline" ;;
    none) printf '%s\n' "$swizzle" "$pipeline" "$reuse" "$softmax" ;;
    esac
}

build() { # VARIANT: in a copy of the sources
    [ ! "$at/$1" -nt "steps/$step/gpu.cu" ] || return 0
    [ -d "$at/tree" ] || { mkdir -p "$at/tree"; cp -R Makefile common steps tests "$at/tree"; }
    sed "$(edit "$1")" "steps/$step/gpu.cu" >"$at/tree/steps/$step/gpu.cu"
    if [ "$1" != whole ] && cmp -s "$at/tree/steps/$step/gpu.cu" "steps/$step/gpu.cu"; then
        echo "ablation: the edit for $1 finds nothing in gpu.cu" >&2
        exit 1
    fi
    make -s -C "$at/tree" CUDA=1 ${ARCH:+ARCH="$ARCH"} B=build "build/$step" >/dev/null
    cp "$at/tree/build/$step" "$at/$1"
}

variants="whole no-swizzle no-pipeline no-reuse exp-softmax no-lag one-block one-no-pipe none"
rm -rf "$at/tree"
for variant in $variants; do build "$variant"; done
[ "${1:-}" != --build ] || exit 0
printf '%-12s %4s %6s %9s %9s %7s\n' variant dim tokens ms TFLOP/s whole
for dim in 64 128; do
    whole=
    for variant in $variants whole; do # whole once more: the difference is noise
        RESULTS=$at/results.tsv "$at/$variant" --device gpu --batch 2 --heads $((2048 / dim)) --dim $dim --seq 8192 --json "$@" >"$at/said" ||
            { echo "$variant: does not run on this GPU, or is wrong"; continue; }
        tr -d '{}"' <"$at/said" | tr , '\n' | awk -F ': *' -v variant="$variant" -v whole="${whole:-}" '
                { sub(/^ /, "", $1); is[$1] = $2 }
                END { printf "%-12s %4d %6d %9.4f %9.1f %6.2fx\n", variant, is["dim"], is["seq_q"], is["median_ms"], is["tflop_s"],
                          whole ? whole / is["median_ms"] : 1 }' | tee "$at/line"
        whole=${whole:-$(awk '{ print $4 }' "$at/line")}
    done
done

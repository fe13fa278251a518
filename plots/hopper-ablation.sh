#!/bin/sh
# What are the ideas of steps 13, 14 and 16 worth? Builds each with one thing changed at a time, and times all in turn on a Hopper GPU.
#   plots/hopper-ablation.sh [--causal --seq 1024 ...]    options as `make step-14 ARGS=...` takes them
# VARIANTS="14 14-4x64 16-early-6" chooses. A variant whose results are wrong is not timed. Programs are kept in build/hopper-ablation, and built again when gpu.cu is newer.
set -eu
cd "$(dirname "$0")/.."
at=build/hopper-ablation rounds=${ROUNDS:-5}

step_of() { ls steps | grep "^${1%%-*}_"; }

# The edit of a step's gpu.cu, for sed, that makes a variant.
edit() {
    wait='end_values(me.o, me.p);'
    case $1 in
    13-groups-*) printf '%s\n' "s/\(shape<T, [0-9]*, \)[0-9], 128>/\1${1##*-}, 128>/" ;; # so many warpgroups in a block
    # softmax, then the wait, and no branch between them
    14-sinks | 16-sinks) printf '%s\n' '/if (__any_sync(ALL_LANES, me.l.0. + sum/,/^    }$/c\' "$wait" ;;
    # the exponentials of a row wait for the maxima of both
    14-vote-first) printf '%s\n' '/float2 above = make_float2/a\' 'if (!__any_sync(ALL_LANES, above.x > m.x + LAG || above.y > m.y + LAG)) return m;' ;;
    # not timed unless asked for: another shape for heads of 64, another EARLY for all shapes
    1[456]-4x64) echo 's/shape<T, 64, 3, 128, 4, 160, [0-9]*>/shape<T, 64, 4, 64, 4, 112, 4>/' ;;
    1[456]-3x128) echo 's/shape<T, 64, 4, 64, 4, 112, [0-9]*>/shape<T, 64, 3, 128, 4, 160, 4>/' ;;
    1[456]-early-*) printf '%s\n' "s/\(shape<T, .*, \)[0-9]*>/\1${1##*-}>/" ;;
    # a condition that the compiler can see through: a sum of exponentials is not negative
    16-proved) echo 's/__any_sync(ALL_LANES, me.l.0. + sum.0./__any_sync(ALL_LANES, sum[0]/' ;;
    esac
}

build() { # VARIANT: in a copy of the sources
    step=$(step_of "$1")
    [ ! "$at/$1" -nt "steps/$step/gpu.cu" ] || return 0
    [ -d "$at/tree" ] || { mkdir -p "$at/tree"; cp -R Makefile common steps tests "$at/tree"; }
    sed "$(edit "$1")" "steps/$step/gpu.cu" >"$at/tree/steps/$step/gpu.cu"
    if [ -n "$(edit "$1")" ] && [ "${1#13}" = "$1" ] && cmp -s "$at/tree/steps/$step/gpu.cu" "steps/$step/gpu.cu"; then
        echo "hopper-ablation: the edit for $1 finds nothing in gpu.cu" >&2
        exit 1
    fi
    make -s -C "$at/tree" CUDA=1 ${ARCH:+ARCH="$ARCH"} B=build "build/$step" >/dev/null
    cp "$at/tree/build/$step" "$at/$1"
}

variants=${VARIANTS:-13 13-groups-1 13-groups-2 13-groups-3 13-groups-4 14 14-sinks 14-vote-first 16 16-sinks 16-proved}
backwards=
rm -rf "$at/tree"
for variant in $variants; do build "$variant"; backwards="$variant $backwards"; done
[ "${1:-}" != --build ] || exit 0

run() { # VARIANT DIM ...
    variant=$1 dim=$2
    shift 2
    [ $dim-$variant != 128-13-groups-4 ] || return 0 # there are not enough registers
    said=$(RESULTS=$at/results.tsv "$at/$variant" --device gpu --batch 2 --heads $((2048 / dim)) --dim "$dim" --seq 8192 \
        --budget 0.05 --json "$@") ||
        { echo "$variant: does not run on this GPU, or is wrong" >&2; return 0; }
    echo "$said" | tr -d '{}"' | tr , '\n' | awk -F ': *' -v variant="$variant" '
        { sub(/^ /, "", $1); is[$1] = $2 }
        END { print variant, is["dim"], is["seq_q"], is["causal"], is["tflop_s"] }'
}

# In turn, and in the other order every second time: all see the same clock and temperature.
for dim in 64 128; do
    for round in $(seq "$rounds"); do
        for variant in $([ $((round % 2)) -eq 1 ] && echo "$variants" || echo "$backwards"); do run "$variant" $dim "$@"; done
    done
done >"$at/said"
printf '%-14s %4s %6s %6s %8s   %s\n' variant dim tokens causal TFLOP/s 'least and most'
sort -k 2,2n -k 1,1 -k 5,5n "$at/said" | awk '
    function done() {
        if (n) printf "%-14s %4d %6d %6s %8.0f   %.0f to %.0f\n", was[1], was[2], was[3], was[4], v[int((n + 1) / 2)], v[1], v[n]
        n = 0
    }
    $1 $2 != key { done(); key = $1 $2; split($0, was) }
    { v[++n] = $5 }
    END { done() }'

#!/bin/sh
# `make delays`: the Hopper steps once more, built so that their warps are late now and then, at random, wherever one waits for
# another. Nothing may hang, every check must pass, and every bit must be that of the ordinary build.
# Usage: B=build/cuda tests/delays.sh; TESTS_CHECK="a thousand runs" runs that check alone, and not all of them.
set -u
LIMIT=${LIMIT:-600} # seconds for the whole suite
export CK_RUN_SUITE=attention_gpu TESTS_STEPS="24 25 26 27 28 29 30 31 32 58 59 60 61 62 63 64 65 66 67" TESTS_BITS=1
if ! nvidia-smi >/dev/null 2>&1; then
    echo "random delays: skipped: there is no GPU here"
    exit 0
fi
bits() { grep '^bits' "$B/delayed/$1.log"; }
mkdir -p "$B/delayed"
TESTS_SMALL=1 TESTS_CHECK="a thousand runs" timeout "$LIMIT" "$B/main_gpu" >"$B/delayed/ordinary.log" 2>&1 ||
    { cat "$B/delayed/ordinary.log" >&2; exit 1; }
timeout "$LIMIT" "$B/delayed/main_gpu" >"$B/delayed/delayed.log" 2>&1
status=$?
if [ $status -eq 0 ]; then
    CK_RUN_SUITE=backward_gpu timeout "$LIMIT" "$B/delayed/main_gpu" >>"$B/delayed/delayed.log" 2>&1
    status=$?
fi
cat "$B/delayed/delayed.log"
[ $status -ne 124 ] || echo "random delays: still running after $LIMIT s: a kernel hangs" >&2
[ $status -eq 0 ] || exit 1
if [ -z "$(bits ordinary)" ] || [ "$(bits ordinary)" != "$(bits delayed)" ]; then
    echo "random delays: other bits than without them" >&2
    bits ordinary | diff - "$B/delayed/delayed.log" | grep '^[<>] bits' >&2
    exit 1
fi
echo "random delays: no hang, all checks passed, and $(bits ordinary | wc -l) results have the same bits as without"

#!/bin/sh
# The suites of main_cpu, each in a process of its own, JOBS at a time, by name: attention_cpu, the longest, begins. What one
# prints is shown when it ends, and kept beside the program. Usage: tests/suites.sh PROGRAM JOBS [SUITE TO LEAVE OUT ...]
set -u
program=$1 jobs=$2
shift 2
left_out=$(printf ' /^%s$/d;' "$@")
grep -o '[a-z_]*_suite,' tests/main_cpu.c | sed "s/_suite,//; $left_out" | sort | xargs -P "$jobs" -I{} sh -c '
    CK_RUN_SUITE={} "$0" >"$0-{}.log" 2>&1; code=$?; cat "$0-{}.log"; exit $code' "$program"

#!/bin/sh
# `make diff-N`: what a step changes over the step before it. Usage: diff.sh BEFORE STEP
if [ $# -lt 2 ]; then
    echo "the first step has none before it"
    exit 0
fi
color=
if [ -t 1 ] && diff --color=always /dev/null /dev/null 2>/dev/null; then color=--color=always; fi
for file in cpu.c gpu.cu main.c; do
    diff $color -U 2 "steps/$1/$file" "steps/$2/$file"
done
exit 0

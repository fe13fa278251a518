#!/bin/sh
# What to build for, where ARCH does not say: the GPUs in this machine. Usage: gpu_arch.sh NVCC. Prints sm_86, or sm_90a for a
# Hopper GPU, which has instructions of its own; for a GPU that is newer than the toolkit the newest PTX that the toolkit can
# make, which the driver compiles when the program starts. Nothing where nvidia-smi names no GPU: it may print an error, on
# stdout, too.
nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -E '^[0-9]+\.[0-9]+$' | sort -u | tr -d . |
while read -r gpu; do
    newest=$("$1" --list-gpu-arch | sed -n 's/^compute_\([0-9]*\)$/\1/p' | sort -n | tail -n 1)
    if [ "$gpu" = 90 ]; then
        echo sm_90a
    elif [ "$gpu" -gt "${newest:-$gpu}" ]; then
        echo "compute_$newest"
    else
        echo "sm_$gpu"
    fi
done

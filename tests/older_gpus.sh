#!/bin/sh
# `make older-gpus`: the GPU tests as older GPUs would run them, on the one that is here. Built as PTX for sm_75 with the shared
# memory of a T4, and for sm_80 with that of an RTX 30xx; this GPU's driver compiles it. What a step skips there, and why, is
# printed. OLDER="75:65536" chooses: architecture and bytes of shared memory.
set -u
status=0
for gpu in ${OLDER:-75:65536 80:101376}; do
    arch=compute_${gpu%%:*}
    echo "== $arch, ${gpu##*:} bytes of shared memory"
    make --no-print-directory CUDA=1 ARCH="$arch" NVCC_EXTRA="-DSHARED_LIMIT=${gpu##*:}" B="build/$arch" "build/$arch/main_gpu" \
        "build/$arch/09_cluster_softmax" "build/$arch/10_split_softmax" "build/$arch/27_warpgroup_attention" || exit 1
    nvidia-smi >/dev/null 2>&1 || { echo "built; not run: no GPU here"; continue; }
    timeout "${GPU_SECONDS:-900}" "build/$arch/main_gpu" || status=1
    # A row that would ask for clusters; and a step that this build has no code for is left out, and says so.
    "build/$arch/09_cluster_softmax" --device gpu --rows 1 --cols 16Mi --reps 1 --budget 0.1 || status=1
    "build/$arch/10_split_softmax" --device gpu --rows 1 --cols 16Mi --reps 1 --budget 0.1 || status=1
    "build/$arch/27_warpgroup_attention" --reps 1 --budget 0.1 || status=1
done
exit $status

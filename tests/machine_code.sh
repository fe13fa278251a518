#!/bin/sh
# What lessons say of machine code, held against it: which instructions each kernel of a step has, and how many. architectures.sh
# runs this on what it has built (B). Needs cuobjdump and nvdisasm, of the CUDA toolkit, and no GPU.
set -eu
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
for tool in cuobjdump nvdisasm; do
    command -v $tool >/dev/null || { echo "machine code: skipped: $tool, a part of the CUDA toolkit, is not here"; exit 0; }
done
# step, architecture, least and most in every kernel, instruction (a pattern), why. Two are computed: BESIDE_PV, the fewest
# exponentials between the wait for scores and the wait for P V; and REUSE, of 100 multiply-adds those with an operand that is not
# read again.
while read -r step arch least most instruction why; do
    if [ "$step $arch" != "${dumped-}" ]; then
        cuobjdump -sass -arch "$arch" "${B:-build/architectures}"/steps/"$step"_*/gpu.o >build/machine_code.sass
        dumped="$step $arch"
    fi
    awk -v least="$least" -v most="$most" -v what="$instruction" -v arch="$arch" '
        function judge() {
            if (what == "BESIDE_PV") n = beside
            if (what == "REUSE") n = fma ? 100 * reuse / fma : 0
            if (arch == "sm_75" && name ~ /bf16/) name = "" # these came with sm_80
            if (name != "" && (n < least || most != "-" && n > most)) { print name ": " n; bad = 1 }
            beside = -1; n = fma = reuse = exps = after_scores = 0
        }
        /^arch = / { ours = $3 == arch } # a newer cuobjdump shows sm_90 where sm_90a is asked for, too
        ours && /Function :/ { judge(); name = $3; kernels++ }
        ours && /^ *\/\*[0-9a-f]+\*\// {
            op = $2 ~ /^@/ ? $3 : $2
            n += op ~ "^(" what ")"
            if (op ~ /^FFMA/) { fma++; reuse += /\.reuse/ }
            if (op ~ /^MUFU\.EX2/) exps++
            if (op ~ /^WARPGROUP\.DEPBAR/) {
                zero = / 0x0 /
                if (zero && after_scores && (beside < 0 || exps < beside)) beside = exps
                after_scores = !zero; exps = 0
            }
        }
        END { judge(); if (!kernels) print "no kernel"; exit bad || !kernels }' build/machine_code.sass ||
        { echo "step $step, $arch: $instruction must be there $least to $most times: $why" >&2; failed=1; }
done <<'TABLE' && [ -z "${failed-}" ] && echo "machine code: as the lessons say"
15 sm_80   1  -  LDGSTS       tiles are copied in the background
15 sm_80   0  0  HMMA         fp32 cores, not tensor cores
16 sm_80   0  0  HMMA|LDGSTS  fp32 cores, and no copies that run by themselves
17 sm_80   1  -  HMMA         scores on tensor cores
17 sm_80   1  -  SHFL         weights from other lanes
18 sm_80   1  -  HMMA         products on tensor cores
18 sm_80   0  0  LDSM|LDGSTS  words from shared memory, and no copies that run by themselves
19 sm_75   1  -  LDSM         ldmatrix, on a Turing GPU, too
19 sm_80   1  -  HMMA         products on tensor cores
19 sm_80   1  -  LDSM         ldmatrix
19 sm_80   0  0  LDGSTS       no copies that run by themselves yet
20 sm_80   1  -  LDSM         ldmatrix
20 sm_80   1  -  LDGSTS       cp.async
21 sm_90a  0  0  HGMMA|STL|LDL  as on sm_80, and no register spilled
22 sm_90a  0  0  HGMMA|STL|LDL  as in step 21
23 sm_80   1  -  HMMA         products on tensor cores
23 sm_80   1  -  LDSM         ldmatrix
23 sm_80   1  -  LDGSTS       cp.async
23 sm_90a  0  0  HGMMA|STL|LDL  as on sm_80, and no register spilled
24 sm_90a  1  -  UTMALDG      the copy engine loads
24 sm_90a  1  -  HMMA         products as in step 23
24 sm_90a  0  0  HGMMA|LDGSTS  no wgmma, no copies by warps
25 sm_90a  1  -  UTMALDG      the copy engine loads
25 sm_90a  1  -  HMMA         products as in step 23
25 sm_90a  1  -  LDSM         and fragments, too
25 sm_90a  0  0  HGMMA|LDGSTS|STL|LDL  no wgmma, no copies by warps, no register spilled
26 sm_90a  1  -  HGMMA        wgmma
26 sm_90a  1  -  UTMALDG      the copy engine loads
26 sm_90a  0  0  HMMA|LDSM|LDGSTS|STL|LDL  no fragments of Q, K and V, no copies by warps, no register spilled
27 sm_90a  1  -  HGMMA        wgmma
27 sm_90a  1  -  UTMALDG      the copy engine loads
27 sm_90a  1  -  UTMASTG      and stores
27 sm_90a  0  0  HMMA|LDSM|LDGSTS|STL|LDL  no fragments of Q, K and V, no copies by warps, no register spilled
27 sm_90a  1  -  FENCE.VIEW.ASYNC  what threads wrote is shown to the copy engine and to wgmma: no test on an H100 notices
28 sm_90a  2  2  USETMAXREG   registers are handed over: given once, taken once
28 sm_90a  1  -  FENCE.VIEW.ASYNC  as in step 27
28 sm_90a  0  0  HMMA|LDSM|LDGSTS|STL|LDL  as in step 27
29 sm_90a  2  2  USETMAXREG   as in step 28
29 sm_90a  1  -  FENCE.VIEW.ASYNC  as in step 27
29 sm_90a  0  0  HMMA|LDSM|LDGSTS|STL|LDL  as in step 27
29 sm_90a 16  -  BESIDE_PV    softmax runs beside P V: written naively, three exponentials do
29 sm_90a  0 54  R2UR         descriptors live in uniform registers
30 sm_90a  2  2  USETMAXREG   as in step 28
30 sm_90a  1  -  FENCE.VIEW.ASYNC  as in step 27
30 sm_90a  0  0  HMMA|LDSM|LDGSTS|STL|LDL  as in step 27
30 sm_90a 16  -  BESIDE_PV    as in step 29
30 sm_90a  0 54  R2UR         as in step 29
31 sm_90a  2  2  USETMAXREG   as in step 28
31 sm_90a  1  -  FENCE.VIEW.ASYNC  as in step 27
31 sm_90a  0  0  HMMA|LDSM|LDGSTS|STL|LDL  as in step 27
31 sm_90a 16  -  BESIDE_PV    as in step 29
31 sm_90a  0 54  R2UR         as in step 29
32 sm_90a  2  2  USETMAXREG   as in step 28
32 sm_90a  1  -  FENCE.VIEW.ASYNC  as in step 27
32 sm_90a  0  0  HMMA|LDSM|LDGSTS|STL|LDL  as in step 27
32 sm_90a 16  -  BESIDE_PV    as in step 29
32 sm_90a  0 54  R2UR         as in step 29
32 sm_90a 75  -  REUSE        the two references are an even and an odd register
59 sm_90a  0  0  HGMMA|LDGSTS|STL|LDL  as in step 25
62 sm_90a  0  0  LDGSTS|USETMAXREG|STL|LDL  four products by wgmma, the fifth by mma.sync; nobody hands over registers
63 sm_90a  0  0  HMMA|LDSM|LDGSTS|STL|LDL  as in step 27
64 sm_90a  0  2  USETMAXREG   as in step 28, in one of its three kernels
64 sm_90a  0  0  HMMA|LDSM|LDGSTS|STL|LDL  as in step 27
65 sm_90a  0  2  USETMAXREG   as in step 64
65 sm_90a  0  0  HMMA|LDSM|LDGSTS|STL|LDL  as in step 27
66 sm_90a  0  2  USETMAXREG   as in step 64
66 sm_90a  0  0  HMMA|LDSM|LDGSTS|STL|LDL  as in step 27
67 sm_90a  0  2  USETMAXREG   as in step 66
67 sm_90a  0  0  HMMA|LDSM|LDGSTS|STL|LDL  as in step 27
TABLE

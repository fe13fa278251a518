#!/bin/sh
# Compiles every CUDA file for every architecture that the course supports, warnings being errors; fails where a register is
# spilled, where ptxas gives up on overlapping wgmma (its C75xx warnings), and where machine_code.sh misses what lessons say.
# Needs nvcc, no GPU. B is the folder to build in, which is emptied: `make` with the same flags can go on from there.
set -eu
# (RTX 30xx and 40xx, sm_86 and sm_89, run the code of sm_80; an H100 that of sm_90a; sm_90 and sm_100 compile what sm_120 has.)
ARCHITECTURES="sm_75 sm_80 sm_90a sm_120"
B=${B:-build/architectures}
log=build/architectures.log
rm -rf "$B" # what was built before was not looked at
mkdir -p build
files=$(find common steps tests -name '*.cu' | sort)
targets=$(echo "$files" | sed "s,^,$B/,; s,cu$,o,")
make -s -j2 CUDA=1 V=1 B="$B" ARCH="$ARCHITECTURES" WERROR=-Werror NVCC_EXTRA="-Xptxas -v" $targets >$log 2>&1 ||
    { cat $log >&2; exit 1; }
# Broken kernels must compile, too: a mutant that does not is caught by nothing. (A tenth of them; `tests/mutate.py compile`:
# all.)
CUDA=1 ARCH=sm_90a B=build/mutants-cuda tests/mutate.py compile --tenth random
kernels=$(grep -c 'Compiling entry function' $log)
# Known, and left: kernels, architectures, and how many bytes. Step 05 is worth more with two blocks of 1024 threads an SM than
# without its one spilled register; so are 35 and 36 with two blocks of 256, and 37 with four of 64. 46's queries have 1024
# threads, at 64 registers. 23 at heads of 128 is tuned for sm_80 to sm_90, where it fits; 21 and 22, on the way to it, do not
# quite. In the others of a way, too, sums and scores fill a thread's registers.
known='block_softmax sm_ 8
grouped_attention sm_ 32
merged_attention sm_ 76
scored_attention sm_[789] 8
scored_attention sm_1 200
queries_kernelILi sm_ 36
(wide|folded)_attention_kernel.*Li128E sm_[789] 8
(wide|folded)_attention_kernel.*Li128E sm_1 84
lean_attention_kernel.*Li128E sm_1 36
boxed_attention_kernel.*Li128E sm_ 24
(scores|filled|boxed|square)_backward_kernel sm_ 12'
spilled=$(echo "$known" | awk '
    NR == FNR { kernels[NR] = $1; on[NR] = $2; most[NR] = $3; n = NR; next }
    /Compiling entry function/ { kernel = $0 }
    /bytes spill stores/ {
        match($0, /[0-9]+ bytes spill stores/)
        bytes = substr($0, RSTART) + 0
        for (i = 1; i <= n && !(kernel ~ kernels[i] && kernel ~ ("for .?" on[i]) && bytes <= most[i]); i++)
            ;
        if (bytes > 0 && i > n)
            print kernel ": " bytes " bytes"
    }' - $log)
given_up=$(grep -E 'C75[0-9][0-9]' $log || true)
echo "$(echo "$files" | wc -l) files, $kernels kernels for $(echo $ARCHITECTURES | wc -w) architectures"
[ -z "$spilled$given_up" ] || { printf 'registers spilled, or wgmma serialised:\n%s\n%s\n' "$spilled" "$given_up" >&2; exit 1; }
B=$B tests/machine_code.sh

#!/bin/sh
# What must hold on machines other than this one, tried with programs that pretend: a broken driver, no sudo, another awk, another
# language. MAKES="make-3.81 make-4.2.1" tries other makes, too: they are to do what this one does. Run by tests/run.sh; takes
# seconds.
set -u
. tests/is.sh
says() { # what was said, a part of it, of what
    case $1 in *"$2"*) is said said "$3" ;; *) is "$1" "... $2 ..." "$3" ;; esac
}
program() { # name, script: a program in $work/bin
    mkdir -p "$work/bin"
    printf '#!/bin/sh\n%s\n' "$2" >"$work/bin/$1" && chmod +x "$work/bin/$1"
}
fresh() { rm -rf "$work/bin"; mkdir -p "$work/bin"; }
link() { for name; do ln -sf "$(command -v "$name")" "$work/bin/$name"; done; }

# ---- which GPU is here

arch() { # what nvidia-smi prints; its status
    program nvidia-smi "printf '%s\\n' '$1'; exit $2"
    PATH=$work/bin:$PATH common/scripts/gpu_arch.sh "$work/bin/nvcc" | tr '\n' ' '
}
fresh
program nvcc 'echo compute_75; echo compute_90; echo compute_90a; echo compute_120; echo compute_103; echo compute_120a'
is "$(arch '9.0' 0)" "sm_90a " "an H100"
is "$(arch '8.6
7.5
8.6' 0)" "sm_75 sm_86 " "three GPUs of two kinds"
is "$(arch '12.1' 0)" "compute_120 " "a GPU newer than the toolkit"
is "$(arch 'Failed to initialize NVML: Driver/library version mismatch' 18)" "" "a driver that does not match"
is "$(arch 'No devices were found' 0)" "" "a driver without a device"
is "$(arch '[N/A]' 0)" "" "a device without a number"
program nvidia-smi 'echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18'
(unset ARCH; MAKEFLAGS= PATH=$work/bin:$PATH ${MAKE:-make} CUDA=1 CUDA_HOME="$work" B="$work/b" -n \
    "$work/b/common/harness/gpu.o") >"$work/out" 2>&1
says "$(cat "$work/out")" "code=sm_75" "the build beside a broken driver"

# ---- the Makefile, for GNU make from 3.81 on

is "$(grep -nE '^[^	#]*\$\((call|shell|if|or)[^#]*[^\\#]#[^#]' Makefile)" "" \
    "a # in a function call, which makes before 4.3 take for a comment"
is "$(grep -nE '\(shell command -v' Makefile | grep -v '[|;&<>]')" "" \
    "command -v without a shell, which makes before 4.3 do not find"
is "$(grep -nE '&:|\.ONESHELL|\$\(file |\$\(let |\$\(intcmp |!=|::=|^undefine' Makefile)" "" "what came after make 3.81"
for make in ${MAKES:-}; do
    for targets in help all test "setup tour" step-3 diff-4 plots; do
        is "$(MAKEFLAGS= $make CUDA=0 -n $targets 2>&1 | grep -v 'no-print-directory\|^make\|found:' | sort)" \
            "$(MAKEFLAGS= make CUDA=0 -n $targets 2>&1 | grep -v 'no-print-directory\|^make\|found:' | sort)" "$make $targets"
    done
    is "$(MAKEFLAGS= $make CUDA=0 help 2>&1)" "$(MAKEFLAGS= make CUDA=0 help 2>&1)" "$make help"
done
is "$(CUDA=0 ${MAKE:-make} --no-print-directory -s help 2>/dev/null | head -n 1)" \
    "From softmax to attention. Type make and one of:" "stdout, which has nothing but what was asked for"

# ---- setup

unset MPI # as in make setup test MPI=1
setup() { # what is here beside a shell: its output, and its status
    out=$(PATH=$work/bin CC= "$work/bin/sh" common/scripts/setup.sh 2>&1)
    status=$?
}
fresh
link sh env
program id 'echo 1000'
program apt-get 'exit 0'
setup
is $status 1 "setup without a compiler and without sudo"
says "$out" "apt-get install build-essential make" "what it says to type"
program cc 'exit 0'
setup
is $status 0 "setup without gnuplot and without sudo"
says "$out" "apt-get install make python3 gnuplot-nox pkg-config check" "what it says to type"
says "$out" "going on without: make python3 gnuplot-nox" "what it goes on without"
export MPI=1
setup
unset MPI
says "$out" "check libopenmpi-dev openmpi-bin" "what it says to type where MPI is asked for"
program sudo "exec env -i PATH=$work/bin \"\$@\""
program apt-get "echo \"\$* \${DEBIAN_FRONTEND:-asks}\" >>$work/apt"
setup
is "$status $(cat "$work/apt")" "0 update -qq asks
install -y -qq make python3 gnuplot-nox pkg-config check noninteractive" "setup with a sudo that clears the environment"
program apt-get 'exit 100'
setup
is $status 0 "setup when apt-get fails"
says "$out" "apt-get failed" "what it says then"
rm "$work/bin/apt-get"
for other in dnf zypper pacman apk brew; do
    program $other 'exit 0'
    setup
    is $status 0 "setup with $other"
    says "$out" "$other " "what to type with $other"
    rm "$work/bin/$other"
done

# ---- without python3: one line that says so, and exit status 2, which is make's
fresh
link sh make env echo printf grep sed awk ls cat head sort find mkdir cmp dirname uname
program gcc 'exit 1'
for target in tables plots record diff-3; do
    out=$(PATH=$work/bin MAKEFLAGS= make CUDA=0 $target 2>&1)
    is $? 2 "make $target without python3"
    is "$(echo "$out" | grep -v '^found:' | grep -v '^make')" 'this needs python3; `make setup` installs it' \
        "make $target without python3"
done
out=$(make -s CUDA=0 B=/dev/null/b step-3 2>&1)
is $? 2 "make where nothing can be written"
says "$out" "the folder /dev/null/b cannot be made" "what it says where nothing can be written"
is "$(echo "$out" | grep -vc '^found:')" 1 "how many lines that is"
is "$(grep -c '@python3' Makefile)" 0 "targets that would not say so"
says "$(make CUDA=yes help 2>&1)" "CUDA=yes: 0, for the CPU alone, and 1 are allowed" "make CUDA=yes"
says "$(LC_ALL=C LANGUAGE= make CUDA=0 start- 2>&1)" "No rule to make target 'start-'" "make start- without a number"

# ---- make bench: what a step has on another device alone is not asked of this one

for step in 41_pages 42_gradient 47_gradient; do
    case $step in 41_*) help="(default 1 and 2" has=16 ;; 42_*) help=--rows has=sweep ;; *) help= has=fp32 ;; esac
    printf '#!/bin/sh\ncase "$* " in --help*) echo "%s" ;; *%s*) ;; *--dtype*) exit 1 ;; esac\n' "$help" $has >"$work/$step"
    chmod +x "$work/$step"
    RESULTS="$work/results.tsv" BENCH_ARGS="--device gpu" common/scripts/bench.sh "$work/$step" >"$work/out" 2>&1
    is $? 0 "make bench of $step on a GPU alone"
done

# ---- awk: mawk is Debian's, gawk Fedora's, busybox's Alpine's

help="-f common/scripts/help.awk $(echo steps/*/main.c) Makefile tests/tests.mk common/library/library.mk"
want=$(awk $help)
for awk in mawk gawk "busybox awk"; do
    $awk 'BEGIN { exit 0 }' >/dev/null 2>&1 || continue
    is "$($awk $help)" "$want" "help by $awk"
done

counted

#!/bin/sh
# `make setup`: install what the course needs and this machine lacks. Says what it is about to do before it does it; asks for
# nothing that is already there. CUDA is used where it is found, and never installed.
set -u

works() { printf '%s\nint main(void){return 0;}\n' "$1" | ${CC:-cc} -x c - $2 -o /dev/null >/dev/null 2>&1; }

missing=
need() { missing="$missing $1"; } # the name that follows is Debian's; other systems' are below
command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || need build-essential
command -v make >/dev/null 2>&1 || need make
command -v gnuplot >/dev/null 2>&1 || need gnuplot-nox
command -v pkg-config >/dev/null 2>&1 || need pkg-config
pkg-config --exists check 2>/dev/null || need check
works '#include <cblas.h>' -lopenblas || need libopenblas-dev

if [ -z "$missing" ]; then
    echo "setup: everything is here already"
    exit 0
fi

as_root=
if [ "$(id -u)" != 0 ]; then as_root=sudo; fi

if command -v apt-get >/dev/null 2>&1; then
    echo "setup: installing with $as_root apt-get:$missing"
    $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq $missing >/dev/null
    status=$?
    [ $status = 0 ] && echo "setup: done" || echo "setup: apt-get failed; the lines above say why" >&2
    exit $status
fi

echo "setup: missing here, by Debian's names:$missing. This script installs with apt-get alone; please type" >&2
if command -v dnf >/dev/null 2>&1; then
    echo "    sudo dnf install gcc make pkgconf gnuplot check-devel openblas-devel" >&2
elif command -v pacman >/dev/null 2>&1; then
    echo "    sudo pacman -S --needed base-devel gnuplot check openblas" >&2
elif command -v brew >/dev/null 2>&1; then
    echo "    brew install gcc make pkg-config gnuplot check openblas        (and then: gmake CC=gcc-14)" >&2
else
    echo "    your system's command to install a C compiler, make, pkg-config, gnuplot, Check and OpenBLAS" >&2
fi
exit 1

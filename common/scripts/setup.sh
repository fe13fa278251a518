#!/bin/sh
# `make setup`: install what the course needs and this machine lacks. Says what it is about to do before it does it; asks for
# nothing that is already there. What it cannot install it names, with the command to type, and goes on: most of the course runs
# without gnuplot, Check or OpenBLAS. Fails only without a C compiler. CUDA is used where it is found, and never installed. Open
# MPI, which is large, is asked for: MPI=1.
set -u

has() { command -v "$1" >/dev/null 2>&1; }
cc=
for compiler in ${CC:-} cc gcc clang; do
    if [ -z "$cc" ] && has "$compiler"; then cc=$compiler; fi
done
links() { printf '%s\nint main(void){return 0;}\n' "$1" | $cc -x c - $2 -o /dev/null >/dev/null 2>&1; }
has_cblas() {
    flags=$(pkg-config --cflags --libs openblas 2>/dev/null)
    links '#include <cblas.h>' -lopenblas || links '#include <cblas.h>' -lcblas ||
        { [ -n "$flags" ] && links '#include <cblas.h>' "$flags"; }
}

look() {
    missing=
    [ -n "$cc" ] || missing="$missing build-essential" # Debian's names; other systems' are below
    has make || missing="$missing make"
    has python3 || missing="$missing python3"
    has gnuplot || missing="$missing gnuplot-nox"
    has pkg-config || missing="$missing pkg-config"
    pkg-config --exists check 2>/dev/null || missing="$missing check"
    { [ -n "$cc" ] && has_cblas; } || missing="$missing libopenblas-dev"
    [ "${MPI:-}" != 1 ] || has mpicc || missing="$missing libopenmpi-dev openmpi-bin"
}

# Without them one thing or another is left out; without a compiler, everything.
go_on() {
    case $missing in
    *build-essential*) echo "setup: nothing can be built without a C compiler" >&2; exit 1 ;;
    *) echo "setup: going on without:$missing" >&2; exit 0 ;;
    esac
}

look
if [ -z "$missing" ]; then
    echo "setup: everything is here already"
    exit 0
fi

if has apt-get; then
    if [ "$(id -u)" = 0 ]; then root=; else root="sudo "; fi
    if [ -n "$root" ] && ! has sudo; then
        echo "setup: there is no sudo here; as root, please type" >&2
        echo "    apt-get update && apt-get install$missing" >&2
        go_on
    fi
    echo "setup: installing with ${root}apt-get:$missing"
    ${root}apt-get update -qq && ${root}env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null && exit 0
    echo "setup: apt-get failed; the lines above say why. By hand: ${root}apt-get update && ${root}apt-get install$missing" >&2
    go_on
fi

echo "setup: missing here, by Debian's names:$missing. This script installs with apt-get alone; please type" >&2
if has dnf; then
    echo "    sudo dnf install gcc make pkgconf-pkg-config gnuplot check-devel openblas-devel python3" >&2
elif has zypper; then
    echo "    sudo zypper install gcc make pkgconf-pkg-config gnuplot check-devel openblas-devel python3" >&2
elif has pacman; then
    echo "    sudo pacman -S --needed base-devel gnuplot check openblas python" >&2
elif has apk; then
    echo "    sudo apk add build-base pkgconf gnuplot check-dev openblas-dev python3" >&2
elif has brew; then
    echo "    brew install gcc make pkg-config gnuplot check openblas python3" >&2
    echo "    export PKG_CONFIG_PATH=\$(brew --prefix openblas)/lib/pkgconfig (then: gmake CC=gcc-15, or the gcc that came)" >&2
else
    echo "    your system's command to install a C compiler, make, pkg-config, gnuplot, Check, OpenBLAS and Python 3" >&2
fi
go_on

#!/bin/sh
# The library as somebody else gets it: installed below a folder of its own, found by pkg-config, linked from C, C++ and Python.
# Its examples hold themselves to what is right. Run by tests/run.sh; takes seconds. Usage: B=build/cpu tests/library.sh
set -u
export B=${B:-build/cpu}
case $B in *cuda*) cuda=1 ;; *) cuda=0 ;; esac
CUDA_HOME=${CUDA_HOME:-$(dirname "$(dirname "$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)")")}
. tests/is.sh
passes() { # of what, a command
    what=$1
    shift
    "$@" >"$work/out" 2>&1
    is "$? $(cat "$work/out")" "0 $(cat "$work/out")" "$what"
}
install() { ${MAKE:-make} --no-print-directory -s CUDA=$cuda B="$B" install "$@" >"$work/out" 2>&1 || cat "$work/out"; }
cc=${CC:-cc} cxx=${CXX:-c++}

# ---- installed: the same files below PREFIX and below DESTDIR, which no file names

install PREFIX="$work/usr"
install PREFIX=/opt/some DESTDIR="$work/image"
files() { (cd "$1" && find . ! -type d | sort); }
is "$(files "$work/usr")" "./include/from_softmax.h
./lib/libfrom_softmax.a
./lib/libfrom_softmax.so
./lib/libfrom_softmax.so.2
./lib/pkgconfig/from_softmax.pc
./share/from_softmax/from_softmax.py
./share/from_softmax/from_softmax_torch.py" "what is installed"
is "$(files "$work/image/opt/some")" "$(files "$work/usr")" "what is installed below DESTDIR"
is "$(grep -l "$work" "$work"/image/opt/some/lib/pkgconfig/* "$work"/image/opt/some/include/*)" "" "files that name DESTDIR"

# ---- symbols: the header's functions, and nothing else; and nothing that ends a process, prints or allocates

interface=$(grep -o 'fsa_[a-z_]*(' common/library/from_softmax.h | tr -d '(' | sort -u)
is "$(nm -D --defined-only "$work/usr/lib/libfrom_softmax.so" | awk '$2 ~ /[A-Z]/ { print $3 }' | sort)" "$interface" \
    "symbols of the shared library"
is "$(nm -g --defined-only "$work/usr/lib/libfrom_softmax.a" | awk 'NF == 3 { print $3 }' | sort)" "$interface" \
    "symbols of the archive"
for file in libfrom_softmax.so libfrom_softmax.a; do
    case $file in *.so) dynamic=-D ;; *) dynamic= ;; esac
    [ $cuda$dynamic != 1-D ] || continue # it has CUDA's runtime inside, which does
    calls=$(nm $dynamic --undefined-only "$work/usr/lib/$file" | awk 'NF == 2 { sub(/@.*/, "", $2); print $2 }')
    is "$(echo "$calls" | grep -xE 'exit|_exit|abort|malloc|calloc|realloc|free|f?printf|fopen|write')" "" "what $file calls"
done

# ---- the header, by itself, in strict C and C++; examples with the shared library, and with the archive

pc() { PKG_CONFIG_PATH="$work/usr/lib/pkgconfig" pkg-config "$@" from_softmax; }
if command -v pkg-config >/dev/null 2>&1; then
    is "$(pc --modversion)" "$(sed -n 's/^.define FSA_VERSION "\(.*\)".*/\1/p' common/library/from_softmax.h)" "the version"
    strict="-pedantic -Wall -Wextra -Werror"
    echo '#include <from_softmax.h>' >"$work/alone.c"
    cp "$work/alone.c" "$work/alone.cpp"
    passes "the header in C99" $cc -std=c99 $strict $(pc --cflags) -fsyntax-only "$work/alone.c"
    passes "the header in C++11" $cxx -std=c++11 $strict $(pc --cflags) -fsyntax-only "$work/alone.cpp"
    for example in decode.c train.cpp; do
        case $example in *.c) compile="$cc -std=c99" ;; *) compile="$cxx -std=c++11" ;; esac
        passes "$example, compiled" $compile -O1 $strict "common/library/examples/$example" $(pc --cflags --libs) -lm \
            -Wl,-rpath,"$work/usr/lib" -o "$work/shared"
        passes "$example" "$work/shared"
        mkdir -p "$work/archive" && cp "$work/usr/lib/libfrom_softmax.a" "$work/archive/"
        passes "$example with the archive, compiled" $compile -O1 $strict "common/library/examples/$example" $(pc --cflags) \
            "$work/archive/libfrom_softmax.a" $(pc --static --libs | tr ' ' '\n' | grep -v 'from_softmax\|^-L') -o "$work/static"
        passes "$example with the archive" "$work/static"
    done
    # On a GPU: compiled wherever CUDA is, and run; without a GPU it says so.
    if [ $cuda = 1 ]; then
        include="-I$CUDA_HOME/include"
        passes "on_gpu.c, compiled" $cc -std=c99 -O1 -Wall -Wextra -Werror $include common/library/examples/on_gpu.c \
            $(pc --cflags --libs) -L"$CUDA_HOME/lib64" -lcudart -Wl,-rpath,"$CUDA_HOME/lib64:$work/usr/lib" -o "$work/on_gpu"
        passes "on_gpu.c" "$work/on_gpu"
        grep '^skipped' "$work/out" | sed 's/^/library: on_gpu.c: /'
        passes "on_gpu.c with the archive, compiled" $cc -std=c99 -O1 $include common/library/examples/on_gpu.c $(pc --cflags) \
            "$work/archive/libfrom_softmax.a" $(pc --static --libs | tr ' ' '\n' | grep -v 'from_softmax\|^-L') -o "$work/on_gpu"
        passes "on_gpu.c with the archive" "$work/on_gpu"
    else
        echo "library: skipped: on_gpu.c: a build without CUDA"
    fi
else
    echo "library: skipped: pkg-config is not here, with which the examples are compiled"
fi

# ---- Python

export PYTHONPATH="$work/usr/share/from_softmax${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
if python3 -c 'import numpy' 2>/dev/null; then
    passes "attention.py" python3 common/library/examples/attention.py
else
    passes "the module, without numpy" python3 -c 'import from_softmax; assert from_softmax.version()'
    echo "library: skipped: attention.py: numpy is not here"
fi

counted

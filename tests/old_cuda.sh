#!/bin/sh
# The oldest CUDA toolkit that can be had by packages, 12.4: nvcc from Debian 13, the rest from Python wheels. Puts it into a
# folder and changes nothing else on the machine. Usage: tests/old_cuda.sh FOLDER; then make CUDA_HOME=FOLDER
# NVCC_APPEND_FLAGS="-cudart shared". Needs a Debian machine, pip, and a C++ compiler that this nvcc knows: g++ up to 13.
set -eu
folder=$1
[ ! -x "$folder/bin/nvcc" ] || exit 0
work=$folder.parts
rm -rf "$work" "$folder"
mkdir -p "$work/lists/partial" "$work/archives/partial" "$folder/bin" "$folder/include" "$folder/lib64" "$folder/nvvm/bin"
at=$(cd "$work" && pwd)

# Debian's nvcc, from the mirror that this machine uses: apt with a configuration and lists of its own.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/$' | head -n 1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie non-free" >"$at/sources.list"
own="-o Dir::Etc::SourceList=$at/sources.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$at/lists -o Dir::Cache=$at"
apt-get $own update -qq
(cd "$at" && apt-get $own -o APT::Sandbox::User=root download -qq nvidia-cuda-toolkit)
dpkg -x "$at"/nvidia-cuda-toolkit_*.deb "$at/deb"

# Headers and libraries.
python3 -m pip download --quiet --no-deps --dest "$at/wheels" nvidia-cuda-nvcc-cu12==12.4.131 nvidia-cuda-runtime-cu12==12.4.127 \
    nvidia-cuda-cccl-cu12==12.4.127.post1 nvidia-cublas-cu12==12.4.5.8
for wheel in "$at"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$at/unpacked"; done

# All where nvcc looks for it.
for program in nvcc ptxas fatbinary cudafe++ nvlink bin2c cuobjdump; do
    found=$(find "$at/deb" -type f -name "$program" -size +9k | head -n 1)
    cp "$found" "$folder/bin/" && chmod +x "$folder/bin/$program"
done
cp "$at/deb/usr/lib/nvidia-cuda-toolkit/bin/cicc" "$folder/nvvm/bin/"
cp -r "$at/deb/usr/lib/nvidia-cuda-toolkit/bin/crt" "$folder/bin/"
cp -r "$at/deb/usr/lib/nvidia-cuda-toolkit/libdevice" "$folder/nvvm/"
for include in "$at"/unpacked/nvidia/*/include; do cp -r "$include/." "$folder/include/"; done
for library in cudart cublas cublasLt; do
    mv "$at"/unpacked/nvidia/*/lib/lib$library.so.12 "$folder/lib64/"
    ln -s lib$library.so.12 "$folder/lib64/lib$library.so"
done
: >"$folder/empty.c" && gcc -c "$folder/empty.c" -o "$folder/empty.o" # nvcc asks for a library that nothing here uses
ar rc "$folder/lib64/libcudadevrt.a" "$folder/empty.o"
cat >"$folder/bin/nvcc.profile" <<'END'
TOP = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/$(_NVVM_BRANCH_)/libdevice
PATH += $(TOP)/$(_NVVM_BRANCH_)/bin:$(_HERE_):
INCLUDES += "-I$(TOP)/include" $(_SPACE_)
LIBRARIES =+ $(_SPACE_) "-L$(TOP)/lib64"
END
rm -rf "$work"
"$folder/bin/nvcc" --version | grep release

# How the library is built; the Makefile includes this. The steps that it has are compiled for it again, as code that may lie
# anywhere, their symbols hidden, and their memory the caller's (inside.h). With CUDA it has steps of a GPU, too, for ARCH and for
# no other (no PTX: it would be compiled twice); the tensors of Hopper's may lie in other ways than the step's (strided.cuh).

comma := ,
LIBRARY_STEPS := $(filter 07% 10% 15% 35% 41% 42% 47%,$(STEPS))
LIBRARY_GPU_STEPS := $(if $(filter 1,$(CUDA)),$(filter 07% 10% 15% 34% 35% 40% 41% 42% 47% \
                     $(if $(filter-out sm_90a,$(ARCH)),23% 55%) $(if $(filter sm_90a,$(ARCH)),32% 66%),$(STEPS)))
LIBRARY_O := $(patsubst %,$B/library/%.o,$(basename $(wildcard common/library/*.c)) \
             $(LIBRARY_STEPS:%=steps/%/cpu) $(if $(filter 1,$(CUDA)),common/library/gpu) $(LIBRARY_GPU_STEPS:%=steps/%/gpu))
LIBRARY := $B/libfrom_softmax.a $B/libfrom_softmax.so
LIBRARY_VERSION := $(shell sed -n 's/^.define FSA_VERSION "\(.*\)".*/\1/p' common/library/from_softmax.h)
SONAME := libfrom_softmax.so.$(firstword $(subst ., ,$(LIBRARY_VERSION)))
OBJCOPY := $(shell $(CC) -print-prog-name=objcopy 2>/dev/null)

$B/library/%.o: %.c $B/flags
	@mkdir -p $(@D) $(if $(V),,&& echo "  compile $<, for the library")
	$Q$(C) -Icommon/library -fPIC -fvisibility=hidden $(INSIDE) -c $< -o $@
$B/library/steps/%.o: INSIDE = -include common/library/inside.h

# Steps for some GPUs alone are there if ARCH has one; on_gpu.c must know.
$B/library/common/library/on_gpu.o: C += $(if $(filter 32%,$(LIBRARY_GPU_STEPS)),-DFOR_HOPPER) \
                                         $(if $(filter 23%,$(LIBRARY_GPU_STEPS)),-DFOR_OTHERS)

LIBRARY_NEEDS = $(filter -fopenmp,$(OPENMP))
ifeq ($(CUDA),1)
LIBRARY_NVCCFLAGS := -O3 -std=c++17 $(foreach a,$(ARCH),-gencode arch=$(a:sm_%=compute_%)$(comma)code=$(a)) \
                     -Xcompiler -Wall,-Wextra,-fPIC,-fvisibility=hidden $(if $(WERROR),-Werror all-warnings) -Icommon -Isteps \
                     -DUSE_CUDA -MMD -MP
$B/library/%.o: %.cu $B/flags
	@mkdir -p $(@D) $(if $(V),,&& echo "  compile $<, for the library")
	$Q$(NVCC) $(LIBRARY_NVCCFLAGS) $(MAPS) -MF $(@:.o=.d) -c $< -o $@
$(patsubst %,$B/library/steps/%/gpu.o,$(filter 32%,$(LIBRARY_GPU_STEPS))): MAPS = -DOTHER_MAPS='"library/strided.cuh"'

# For those who link the archive; the shared library has CUDA's runtime inside.
LIBRARY_NEEDS += $(firstword $(wildcard $(CUDA_HOME)/lib64/libcudart_static.a $(CUDA_HOME)/lib/libcudart_static.a) \
                              -lcudart_static) -lpthread -ldl -lrt -lstdc++
LINK_LIBRARY = $(NVCC) -Xcompiler "$(OPENMP)" -Wno-deprecated-gpu-targets -shared -Xlinker --exclude-libs,ALL
else
LINK_LIBRARY = $(CC) $(CFLAGS) $(OPENMP) -shared
endif

# One object, so that what steps call across files is hidden in an archive, too. (Apple's linker hides it by itself.)
$B/libfrom_softmax.a: $(LIBRARY_O)
	@rm -f $@ $(if $(V),,&& echo "  archive $@")
	$Q$(CC) -r -nostdlib $(LIBRARY_O) -o $B/library/from_softmax.o
	$Q$(if $(shell command -v $(OBJCOPY) 2>/dev/null),$(OBJCOPY) --localize-hidden $B/library/from_softmax.o)
	$Q$(or $(wildcard $(OBJCOPY:%objcopy=%ar)),ar) rcs $@ $B/library/from_softmax.o

$B/libfrom_softmax.so: $(LIBRARY_O)
	@$(if $(V),,echo "  link    $@")
	$Q$(LINK_LIBRARY) $(if $(filter Linux,$(shell uname)),-Xlinker -soname=$(SONAME)) $^ -o $@ -lm

# ---- what a reader does

# Who wants the library has all cores for it, if nothing is said of how many.
ifneq ($(filter library install,$(MAKECMDGOALS)),)
ifeq ($(filter -j% --job%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(or $(shell getconf _NPROCESSORS_ONLN 2>/dev/null),1)
endif
endif

PREFIX ?= /usr/local
INSTALLED = $(DESTDIR)$(PREFIX)

library: $(LIBRARY) ## the last kernels of each chapter as a library to link, build/cpu/libfrom_softmax (docs/library.md)

install: $(LIBRARY) ## the library with its header, pkg-config file and Python module, below PREFIX=/usr/local (and DESTDIR)
	@mkdir -p '$(INSTALLED)/include' '$(INSTALLED)/lib/pkgconfig' '$(INSTALLED)/share/from_softmax'
	cp common/library/from_softmax.h '$(INSTALLED)/include/'
	cp $B/libfrom_softmax.a '$(INSTALLED)/lib/'
	cp $B/libfrom_softmax.so '$(INSTALLED)/lib/$(SONAME)'
	ln -sf $(SONAME) '$(INSTALLED)/lib/libfrom_softmax.so'
	cp common/library/*.py '$(INSTALLED)/share/from_softmax/'
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(LIBRARY_VERSION)|; s|@PRIVATE@|$(strip $(LIBRARY_NEEDS))|' \
	    common/library/from_softmax.pc.in >'$(INSTALLED)/lib/pkgconfig/from_softmax.pc'

.PHONY: library install

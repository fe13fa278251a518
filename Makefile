# From softmax to attention: a course, a step at a time. `make` alone lists what can be done.
#
# What a reader may set:   CUDA=0        build for the CPU alone
#                          ARCH=sm_90a   GPU architectures to build for, one or several (default: the one in this machine)
#                          COUNT=1       count exponentials and merges instead of timing: CPU steps, in a build tree of its own
#                          NCCL_HOME=... where NCCL is, if the compiler does not find it: what pip calls nvidia-nccl-cu13 will do
#                          MPI=1         of `make setup`: install Open MPI, too (60 MB): ranks of a ring on several machines
#                          CC=clang      another C compiler          ARGS="--help"   options for a step's program

# ---- the syllabus: every folder of steps/ with a main.c, which says what the step is

STEPS := $(patsubst steps/%/main.c,%,$(sort $(wildcard steps/[0-9][0-9]_*/main.c)))

.DEFAULT_GOAL := help
.SUFFIXES: # every rule is here: none of make's own, which would look for start-.o where a number was forgotten
# Numbers have decimal points and lists are sorted by bytes, whatever the reader's language is.
export LC_ALL := C

# `make setup tour` installs first, and only then looks at what is here: hence a make of its own for what follows setup.
REST := $(if $(filter setup,$(MAKECMDGOALS)),$(filter-out setup,$(MAKECMDGOALS)))
ifneq ($(REST),)
setup: ; @common/scripts/setup.sh
$(REST): setup ; @$(MAKE) --no-print-directory $@
.PHONY: setup $(REST)
else

# ---- what is here: nvcc, OpenMP, a CBLAS, Check

CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
ifeq ($(shell command -v $(CC) 2>/dev/null),)
CC := cc
endif
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(shell command -v nvcc 2>/dev/null || \
             ls /usr/local/cuda/bin/nvcc /opt/cuda/bin/nvcc 2>/dev/null | head -n 1))
NVCC := $(CUDA_HOME)/bin/nvcc
CUDA ?= $(if $(wildcard $(NVCC)),1,0)
ifeq ($(filter 0 1,$(CUDA)),)
$(error CUDA=$(CUDA): 0, for the CPU alone, and 1 are allowed)
endif
ifeq ($(COUNT),1)
override CUDA := 0
endif
accepts = $(shell echo 'int main(void){return 0;}' | $(CC) $(1) -x c - -o /dev/null >/dev/null 2>&1 && echo $(1))
has_cblas = $(shell printf '\043include <cblas.h>\nint main(void){return 0;}\n' | \
            $(CC) -x c - $(1) -o /dev/null >/dev/null 2>&1 && echo '$(1)')
has_mpi = $(shell printf '\043include <mpi.h>\nint main(void){return MPI_Init(0,0);}\n' | \
          $(CC) -x c - $(1) -o /dev/null >/dev/null 2>&1 && echo '$(1)')
has_nccl = $(shell printf '\043include <nccl.h>\nint main(void){return ncclGetVersion(0);}\n' | \
           $(CC) -x c - -I$(CUDA_HOME)/include $(1) -o /dev/null >/dev/null 2>&1 && echo '$(1)')

# Asked once: a make that this one calls, by whatever script, takes over what was found, if it would ask the same compiler on the
# same paths.
ASKED := $(CC) $(PATH) $(PKG_CONFIG_PATH) $(CPATH) $(C_INCLUDE_PATH) $(LIBRARY_PATH)
ifneq ($(FOUND_BY),$(ASKED))
NATIVE := $(or $(call accepts,-march=native),$(call accepts,-mcpu=native)) $(call accepts,-mprefer-vector-width=512)
OPENMP := $(or $(call accepts,-fopenmp),$(call accepts,-fopenmp-simd))
OPENBLAS := $(shell pkg-config --cflags --libs openblas 2>/dev/null)
CBLAS := $(or $(call has_cblas,-lopenblas),$(if $(OPENBLAS),$(call has_cblas,$(OPENBLAS))),$(call has_cblas,-lcblas))
MPI_FLAGS := $(call has_mpi,$(wordlist 2,99,$(shell mpicc -show 2>/dev/null)))
CHECK := $(shell pkg-config --cflags --libs check 2>/dev/null)
PASS_FAILED := $(if $(call accepts,-Wpass-failed),-Wno-pass-failed)
export FOUND_BY := $(ASKED)
endif
export NATIVE OPENMP CBLAS MPI_FLAGS CHECK PASS_FAILED

B := build/$(if $(filter 1,$(COUNT)),count,$(if $(filter 1,$(CUDA)),cuda,cpu))
CFLAGS ?= -O3 $(NATIVE)
CFLAGS := $(CFLAGS)
NCCL_FLAGS := $(if $(filter 1,$(CUDA)),$(or $(call has_nccl,-lnccl),$(if $(NCCL_HOME),$(call has_nccl,-I$(NCCL_HOME)/include \
              -L$(NCCL_HOME)/lib -l:libnccl.so.2 -Xlinker -rpath=$(NCCL_HOME)/lib))))

# Never -ffast-math: it breaks vexp.h, and the verifier's NaN checks. These two parts of it are harmless and needed to vectorise.
# (clang takes no maximum of floats in vectors without the rest of it, and warns of it in step 12: slower there, not wrong.)
C := $(CC) -std=gnu11 $(CFLAGS) -fno-math-errno -fno-trapping-math $(OPENMP) \
     -Wall -Wextra -Wmissing-prototypes $(PASS_FAILED) $(WERROR) \
     -Icommon -Isteps $(if $(filter 1,$(COUNT)),-DCOUNT) $(if $(filter 1,$(CUDA)),-DUSE_CUDA) $(if $(CBLAS),-DUSE_CBLAS) -MMD -MP

ifeq ($(CUDA),1)
# Without ARCH: the GPU in this machine; without one, sm_75, to compile and no more. The newest of ARCH is kept as PTX, too, which
# the driver of a newer GPU compiles. (ARCH=compute_75 keeps nothing else. sm_90a's own instructions run on sm_90a alone: as PTX,
# sm_90.)
FOUND := $(if $(ARCH),,$(shell common/scripts/gpu_arch.sh $(NVCC)))
ARCH ?= $(or $(FOUND),sm_75)
NUMBERS := $(sort $(patsubst %a,%,$(patsubst sm_%,%,$(patsubst compute_%,%,$(ARCH)))))
NEWEST := $(lastword $(filter-out 1%,$(NUMBERS)) $(filter 1%,$(NUMBERS)))
NVCCFLAGS := -O3 -std=c++17 -lineinfo $(foreach a,$(filter sm_%,$(ARCH)),-gencode arch=$(a:sm_%=compute_%),code=$(a)) \
             -gencode arch=compute_$(NEWEST),code=compute_$(NEWEST) \
             -Xcompiler -Wall,-Wextra $(if $(WERROR),-Werror all-warnings) -Icommon -Isteps -DUSE_CUDA -MMD -MP $(NVCC_EXTRA)
LINK := $(NVCC) -Xcompiler "$(OPENMP)" -Wno-deprecated-gpu-targets
else
LINK := $(CC) $(CFLAGS) $(OPENMP)
endif

# On stderr, so that `make -s step-7 ARGS=--json` prints JSON and nothing else; and once, whatever make calls make.
ifeq ($(FOUND_SAID),)
$(shell printf '%s\n' 'found: $(CC); \
$(if $(filter 1,$(CUDA)),CUDA in $(CUDA_HOME) for $(ARCH)$(if $(NCCL_FLAGS), with NCCL),no CUDA (CUDA_HOME tells where it is)); \
$(if $(filter -fopenmp,$(OPENMP)),OpenMP,no OpenMP: one thread); $(if $(CBLAS),CBLAS,no CBLAS); \
$(if $(CHECK),Check,no Check: no tests); $(if $(MPI_FLAGS),MPI,no MPI, which `make setup MPI=1` adds). \
`make setup` adds what is missing' >&2)
endif
export FOUND_SAID := 1

# ---- how programs are built: build/cpu, build/cuda and build/count are trees of their own, never mixed

HARNESS := $(filter-out $(if $(filter 1,$(CUDA)),%/gpu_none.c) %/mpi.c %/nccl.c,$(sort $(wildcard common/harness/*.c \
           common/ring/*.c $(if $(filter 1,$(CUDA)),common/harness/*.cu common/ring/*.cu))))
HARNESS_O := $(addsuffix .o,$(addprefix $B/,$(basename $(HARNESS))))
# A step's objects: its cpu.o where it has a cpu.c, and with CUDA its gpu.o.
parts = $(foreach l,cpu $(if $(filter 1,$(CUDA)),gpu),$(if $(wildcard steps/$(1)/$l.c*),$B/steps/$(1)/$l.o))
PROGRAMS := $(STEPS:%=$B/%)
STEP_O := $(foreach s,$(STEPS),$(call parts,$s))

# Commands are shown in short; V=1 shows them whole. Other flags than last time: everything is built again.
# Who builds nothing (make help, diff-3) leaves them.
Q := $(if $(V),,@)
FLAGS := $(C) $(NVCCFLAGS) $(LINK)
written = $(shell mkdir -p $B 2>/dev/null && { echo '$(FLAGS)' | cmp -s - $@ || echo '$(FLAGS)' >$@; } && echo 1)
$B/flags: FORCE
	+$(if $(written),,$(error the folder $B cannot be made))
FORCE:

$B/%.o: %.c $B/flags
	@mkdir -p $(@D) $(if $(V),,&& echo "  compile $<")
	$Q$(C) -c $< -o $@

$B/%.o: %.cu $B/flags
	@mkdir -p $(@D) $(if $(V),,&& echo "  compile $<")
	$Q$(NVCC) $(NVCCFLAGS) -Xcompiler -fPIC -MF $(@:.o=.d) -c $< -o $@

$B/steps/%/claims.o: steps/%/main.c $B/flags
	@mkdir -p $(@D)
	$Q$(C) -DCLAIMS_ALONE -c $< -o $@

$B/libharness.a: $(HARNESS_O)
	@rm -f $@
	$Qar rcs $@ $^

# What judges kernels sees the harness; what kernels are made of, a step's cpu.c and gpu.cu, cannot include it.
$B/common/harness/%.o $B/common/ring/%.o $B/tests/%.o $B/steps/%/main.o $B/steps/%/claims.o \
    $B/build/mine/%/claims.o $B/build/mine/%/try.o: C += -Icommon/harness -Itests
$B/common/harness/%.o $B/common/ring/%.o $B/tests/%.o: NVCCFLAGS += -Icommon/harness

ifeq ($(COUNT),1)
$B/steps/%/cpu.o: C += -include common/count.h
endif

# A step's program: its main.c, its cpu.c, with CUDA its gpu.cu; the copies of step 00, which all others are measured against; and
# the step before, which its main.c names and which is timed in turn with it: all but its main().
BEFORE := $(shell sed -n 's/.*_main.&\([a-z0-9_]*\), &\([a-z0-9_]*\),.*/\1:\2/p' steps/[0-9]*/main.c)
idea = $(subst $(firstword $(subst _, ,$(1)))_,,$(1))
step_before = $(notdir $(wildcard steps/[0-9][0-9]_$(or $(patsubst $(idea):%,%,$(filter $(idea):%,$(BEFORE))),none)))
.SECONDEXPANSION:
$(PROGRAMS): $B/%: $B/steps/%/main.o $$(sort $$(foreach s,% 00_ceilings $$(call step_before,%),$$(call parts,$$s))) \
             $$(addprefix $B/steps/,$$(addsuffix /claims.o,$$(call step_before,%))) $B/libharness.a
	@$(if $(V),,echo "  link    $@")
	$Q$(LINK) $^ -o $@ $(LIBS) -lm

# Steps 08, 09 and 10 leave short rows to step 07.
$B/09_cluster_softmax $B/10_split_softmax: $(call parts,07_narrow_softmax)
# On a CPU the step before 41 is 35, and before 46 it is 43.
$B/41_paged_attention: $(call parts,35_grouped_attention) $B/steps/35_grouped_attention/claims.o
$B/46_recomputed_backward: $(call parts,43_attention_backward) $B/steps/43_attention_backward/claims.o
# What a rank of a ring does with a block is step 15, on a GPU step 32. A block travels by MPI where there is one, and mpirun
# starts the ranks; between GPUs by NCCL where there is one.
RINGS := $(addprefix $B/,$(filter 68% 69% 70%,$(STEPS)))
LOCAL := $(foreach s,15_register_tiled_attention 32_optimistic_attention,$(call parts,$s))
NCCL_O := $(if $(NCCL_FLAGS),$B/common/ring/nccl.o)
$(RINGS): $(LOCAL) $(if $(MPI_FLAGS),$B/common/ring/mpi.o) $(NCCL_O)
$(RINGS): LIBS := $(filter -L% -l%,$(MPI_FLAGS)) $(filter-out -I%,$(NCCL_FLAGS))
$B/common/ring/mpi.o: C += $(filter -I%,$(MPI_FLAGS))
$B/common/ring/nccl.o: C += $(filter -I%,$(NCCL_FLAGS)) -I$(CUDA_HOME)/include

$B/00_ceilings $B/12_library_attention $B/13_fused_attention $B/main_cpu $B/main_gpu $B/bug $B/delayed/main_gpu: \
    LIBS := $(CBLAS) $(if $(filter 1,$(CUDA)),-lcublas)
$B/main_gpu $B/delayed/main_gpu: LIBS += $(filter-out -I%,$(NCCL_FLAGS))

# ---- what a reader does

help: ## this list
	@awk -f common/scripts/help.awk steps/*/main.c Makefile tests/tests.mk common/library/library.mk

setup: ## install what is missing: a C compiler, gnuplot, Check, OpenBLAS (never CUDA); with MPI=1 Open MPI, too
	@common/scripts/setup.sh

all: $(PROGRAMS) ## build every step

tour: $(PROGRAMS) ## run every step on every device, on real and on random input, and plot what came out
	@common/scripts/tour.sh $(PROGRAMS)

# start-N, try-N, hint-N and solution-N are its exercise: FILE=my.cu tries a kernel from elsewhere.
EXERCISE = B=$B CUDA=$(CUDA) $(PYTHON) common/scripts/exercise.py
# step-N runs step N; diff-N shows what N changes over the step before it, which its main.c names.
number = $(patsubst 0%,%,$(firstword $(subst _, ,$(1))))
define step_rules
step-$(call number,$(1)): $B/$(1)
	@$B/$(1) $$(ARGS)
diff-$(call number,$(1)): ; @$$(PYTHON) common/scripts/diff.py $$(ARGS) $(1) $$(call step_before,$(1))
start-$(call number,$(1)) hint-$(call number,$(1)) solution-$(call number,$(1)):
	@$$(EXERCISE) $$(firstword $$(subst -, ,$$@)) $(1)
try-$(call number,$(1)): ; @$$(EXERCISE) try $(1) $$(if $$(FILE),--file '$$(FILE)') $$(ARGS)
endef
$(foreach s,$(STEPS),$(eval $(call step_rules,$s)))
step-% diff-% start-% try-% hint-% solution-%: ; $(error no such step: $@. N is 0 to $(call number,$(lastword $(STEPS))), as in \
    $(@:%-$*=%)-3)

progress: ## which exercises are solved: start-N cuts the heart out of step N, into mine/, and try-N judges what you put there
	@$(EXERCISE) progress

bench: $(PROGRAMS) ## time every step at every row length and type, into build/results.tsv (takes minutes)
	@common/scripts/bench.sh $(PROGRAMS)

# The GPU steps from 14 on, for a process that runs them in turn with PyTorch's attention: the objects that the programs are made
# of.
$B/libattention.so: $(foreach s,$(filter-out 0% 10% 11% 12% 13% $(notdir $(RINGS)),$(STEPS)),$(filter %/gpu.o,$(call parts,$s))) \
                    $B/common/harness/gpu.o \
                    common/harness/error.c
	@$(if $(V),,echo "  link    $@")
	$Q$(NVCC) -shared -Xcompiler -fPIC -Icommon -Icommon/harness -Wno-deprecated-gpu-targets $^ -o $@

peers: $(if $(filter 1,$(CUDA)),$B/libattention.so) $B/47_joined_backward ## time PyTorch's softmax and attention
	@$(PYTHON) common/scripts/peers.py --programs $B $(if $(filter 1,$(CUDA)),--library $B/libattention.so) $(ARGS)

# Differences, tables, pictures and records are made by Python programs; no step and no Check suite needs it.
PYTHON := $(if $(shell command -v python3 2>/dev/null),python3,echo 'this needs python3; `make setup` installs it' >&2; exit 1; :)

plots: ## draw build/results.tsv as SVG and PNG into build/plots
	@$(PYTHON) plots/results.py plots

# A debug build, in a tree of its own: step 29 leaves clocks behind, and step 32 (SMALL_PROBLEMS=0 make step-32
# NVCC_EXTRA=-DTIMELINE B=build/debug) counts.
timeline: ## what the warps of step 29 do, and when: a chart, from a debug build on a Hopper GPU, into build/plots
	@$(MAKE) --no-print-directory B=build/debug NVCC_EXTRA=-DTIMELINE build/debug/29_overlapped_attention
	@rm -f build/timeline.txt
	@SMALL_PROBLEMS=0 RESULTS=build/debug/results.tsv build/debug/29_overlapped_attention $(TIMED)
	@if [ -f build/timeline.txt ]; then $(PYTHON) plots/results.py timeline build/timeline.txt '$(TIMED)'; fi
timeline: TIMED = $(or $(ARGS),--dim 128 --heads 16 --seq 4096)

# RATE=200mbit, RANKS=2 on each, STEP=69, and ARGS.
machines: RING = $(or $(filter $B/$(or $(STEP),70)_%,$(RINGS)),$(error STEP=$(STEP): 68, 69 and 70 are the rings))
machines: $(RINGS) ## a ring over two machines, made of this one, and a cable of 1 Gbit/s (RATE, RANKS, STEP choose; Linux, MPI)
	@common/scripts/machines.sh '$(or $(RATE),1gbit)' '$(or $(RANKS),1)' $(RING) --device cpu $(ARGS)

scaling: ## how long rings of up to 1024 GPUs should take: a model that is first held to recorded runs (ARGS=--help)
	@$(PYTHON) plots/ring_model.py $(ARGS)

figures: ## draw the figures of the lessons
	@$(PYTHON) docs/figures/figures.py

book: ## the whole course as one page to print, build/book.html (needs pandoc)
	@$(PYTHON) common/scripts/book.py

record: ## keep build/results.tsv under plots/recorded, with this machine's name, driver, compiler, commit and date
	@$(PYTHON) plots/results.py record $(NAME)

tables: ## rewrite the tables of README.md and the lessons from plots/recorded
	@$(PYTHON) plots/results.py tables

include common/library/library.mk
include tests/tests.mk

# ---- the rest

clean: ## remove build/
	rm -rf build

.PHONY: help setup all tour progress bench peers plots timeline machines scaling record figures book tables clean \
        $(foreach s,$(STEPS),$(foreach what,step diff start try hint solution,$(what)-$(call number,$s)))

-include $(shell find $B -name '*.d' 2>/dev/null)
endif

# How the tests are built and run; the Makefile above includes this. They link every step's cpu.o and gpu.o, and no main.o: what
# is tested is what runs.

TESTS_O := $(patsubst %.c,$B/%.o,$(filter-out tests/main_%.c tests/bug.c tests/try.c tests/quiz.c tests/fuzz_%.c \
           tests/ring_threads.c tests/library_threads.c tests/library_speed%.c,$(sort $(wildcard tests/*.c tests/mutants/*.c))))
TESTS_GPU_O := $(patsubst %.cu,$B/%.o,$(sort $(wildcard tests/*.cu tests/mutants/*.cu)))

$B/tests/%.o: C += -Itests -Icommon/library $(filter -I% -D%,$(CHECK))

ALL_O := $(TESTS_O) $(STEP_O) $(patsubst %,$B/steps/%/claims.o,$(filter-out 00%,$(STEPS))) \
         $(if $(filter 1,$(CUDA)),$(TESTS_GPU_O)) $B/libharness.a $B/libfrom_softmax.a
LINK_TESTS = $Q$(if $(V),,echo "  link    $@" &&) \
             $(LINK) $(1) -o $@ $(filter-out -pthread,$(filter -l% -L% -pthread,$(CHECK))) $(LIBS) -lm -lpthread

$B/main_gpu: $(NCCL_O)
$B/main_cpu $B/main_gpu: $B/%: $B/tests/%.o $(ALL_O)
	$(call LINK_TESTS,$^)

# The gallery and its quiz take no test suite; and the quiz no step but those that a broken kernel mimics.
GALLERY_O := $(filter $B/tests/mutants/%,$(TESTS_O))
claimed = $(foreach s,$(1),$(call parts,$s)) $(patsubst %,$B/steps/%/claims.o,$(filter-out 00%,$(1)))
$B/bug: $(filter-out $B/tests/check_%,$(ALL_O))
$B/quiz: $(GALLERY_O) $(call claimed,$(filter 00% 02% 03% 05% 07% 11% 13% 15%,$(STEPS))) $B/libharness.a
$B/ring_threads: $(foreach s,$(filter 15% 32% 68% 69% 70%,$(STEPS)),$(call parts,$s)) $B/libharness.a
$B/library_threads: $B/libfrom_softmax.a
$B/library_speed: $(foreach s,$(filter 00% 07% 10% 15% 35% 41% 42% 47%,$(STEPS)),$(call parts,$s)) $B/libharness.a \
    $B/libfrom_softmax.a
$B/library_speed_gpu: $(call claimed,$(filter 00% 07% 10% 15% 23% 32% 34% 35% 40% 41% 42% 47% 55% 66%,$(STEPS))) $B/libharness.a \
    $B/libfrom_softmax.a
$B/bug $B/quiz $B/ring_threads $B/library_threads $B/library_speed $B/library_speed_gpu: $B/%: $B/tests/%.o
	$(call LINK_TESTS,$^)

# A reader's answer to an exercise, and the course's step, in one program; exercise.py says of which step, and writes its sources.
ANSWER := build/mine/$(TRY)
$B/$(ANSWER)/try: $(patsubst %,$B/$(ANSWER)/%.o,try claims $(basename $(notdir $(wildcard $(ANSWER)/cpu.c \
    $(if $(filter 1,$(CUDA)),$(ANSWER)/gpu.cu))))) \
    $(patsubst %.c,$B/%.o,$(wildcard $(ANSWER)/mutants/*.c)) \
    $(GALLERY_O) $(filter $B/tests/mutants/%,$(if $(filter 1,$(CUDA)),$(TESTS_GPU_O))) \
    $(sort $(foreach s,$(TRY) $(if $(TRY),$(call step_before,$(TRY))) 00_ceilings 07_narrow_softmax \
               15_register_tiled_attention,$(call parts,$s))) \
    $(TRY:%=$B/steps/%/claims.o) $(if $(filter 68% 69% 70%,$(TRY)),$(LOCAL)) $B/libharness.a
	$Q$(LINK) $^ -o $@ $(CBLAS) $(if $(filter 1,$(CUDA)),-lcublas) -lm
$B/build/mine/%.o: C += -Wno-unused -Wno-unused-parameter
$B/build/mine/%.o: NVCCFLAGS += -diag-suppress 177

# The GPU tests around the Hopper steps with random delays.
DELAYED := $(foreach s,$(filter 24% 25% 26% 27% 28% 29% 30% 31% 32% 58% 59% 60% 61% 62% 63% 64% 65% 66% 67%,$(STEPS)), \
    steps/$s/gpu.o)
$B/delayed/%.o: %.cu $B/flags
	@mkdir -p $(@D) $(if $(V),,&& echo "  compile $<, delayed")
	$Q$(NVCC) $(NVCCFLAGS) -DRANDOM_DELAYS -MF $(@:.o=.d) -c $< -o $@
$B/delayed/main_gpu: $(DELAYED:%=$B/delayed/%) $B/main_gpu
	$(call LINK_TESTS,$(filter %.o,$^) $B/tests/main_gpu.o $(filter-out $(DELAYED:%=$B/%),$(ALL_O)))

ifeq ($(CHECK),)
$B/tests/check_%.o $B/tests/main_%.o $B/tests/attention_%.o: ; \
    $(error the tests need Check, which is not here; `make setup` installs it)
endif

test-build: $(PROGRAMS) $B/main_cpu $B/main_gpu $B/libfrom_softmax.so
test: test-build ## every test; SUITE=merge or CASE=malformed runs one suite or case by name
	@B=$B SUITE=$(SUITE) CASE=$(CASE) tests/run.sh

bug: ## the gallery of broken kernels; bug-3 shows number 3, and which check catches it
quiz: ## a broken kernel without its name: which input shows it? QUIZ=3 is number 3, INPUT=rising answers, GIVE=1 gives up

# Most broken kernels run on a CPU: no step of a GPU need be compiled to see them.
ON_GPU := $(shell awk '/^    (CPU|ON_GPU)/ { n++ } /^    ON_GPU/ { print "bug-" n }' tests/mutants/mutants.c)
ifeq ($(CUDA),1)
IN_CPU_TREE = $(MAKE) --no-print-directory CUDA=0 B=build/cpu $@
bug quiz: ; @$(IN_CPU_TREE)
bug-%: ; @$(IN_CPU_TREE)
$(ON_GPU): $B/bug
	@$B/bug $(@:bug-%=%)
else
bug quiz: %: $B/%
	@$B/$@
bug-%: $B/bug
	@$B/bug $*
endif

# MUTANTS="NAME ..." runs some of them; TENTH=random a tenth, with a seed that is printed, TENTH=SEED the same tenth again.
mutants: ## the tree with one thing broken, a hundred times: the tests must catch each (minutes; with a GPU, its kernels too)
	@B=$B MUTANTS='$(MUTANTS)' tests/mutate.py mutants $(if $(TENTH),--tenth $(TENTH))

ablation: ## what is each idea of steps 15, 20, 23, 27 to 29, 31, 32, 55 worth? STEP=23, VARIANTS="23 23-no-lag", and ARGS, choose
	@B=$B STEP='$(STEP)' VARIANTS='$(VARIANTS)' tests/mutate.py ablation $(ARGS)

delays: $(if $(filter 1,$(CUDA)),$B/main_gpu $B/delayed/main_gpu) ## the Hopper steps, warps late at random: no hang, same bits
	@B=$B tests/delays.sh

repairs: ## how often step 32 repairs, on which input, and that no repair is for nothing, on a Hopper GPU
	@$(MAKE) --no-print-directory B=build/debug NVCC_EXTRA=-DTIMELINE build/debug/32_optimistic_attention
	@B=build/debug tests/repairs.sh

older-gpus: ## the GPU tests as a T4 and an RTX 30xx would run them, on the GPU that is here
	@tests/older_gpus.sh

sanitize: ## the CPU tests under ASan and UBSan; the GPU tests under compute-sanitizer, where there is a GPU
	@tests/sanitize.sh

fuzz: ## a minute of random bytes for the .npy reader, words for the command line, arguments for the library (needs clang)
	@tests/fuzz.sh

library-speed: $B/library_speed ## what a call of the library costs beside the step that it calls, in turn
	@$B/library_speed $(ARGS)

library-speed-gpu: $B/library_speed_gpu ## the same on a GPU, and how long a call takes the host
	@$B/library_speed_gpu $(ARGS)

.PHONY: test test-build library-speed library-speed-gpu bug quiz mutants ablation delays older-gpus repairs sanitize fuzz

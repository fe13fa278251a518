# How the library is built; the Makefile includes this. The steps that it has are compiled for it again, as code that may lie
# anywhere, their symbols hidden, and their memory the caller's (inside.h).

comma := ,
LIBRARY_STEPS := $(filter 07% 09% 14% 27% 28% 29% 31%,$(STEPS))
LIBRARY_O := $(patsubst %,$B/library/%.o,common/library/from_softmax $(LIBRARY_STEPS:%=steps/%/cpu))
LIBRARY := $B/libfrom_softmax.a $B/libfrom_softmax.so
LIBRARY_VERSION := $(shell sed -n 's/^.define FSA_VERSION "\(.*\)".*/\1/p' common/library/from_softmax.h)
SONAME := libfrom_softmax.so.$(firstword $(subst ., ,$(LIBRARY_VERSION)))
OBJCOPY := $(shell $(CC) -print-prog-name=objcopy 2>/dev/null)

$B/library/%.o: %.c $B/flags
	@mkdir -p $(@D) $(if $(V),,&& echo "  compile $<, for the library")
	$Q$(C) -Icommon/library -fPIC -fvisibility=hidden $(INSIDE) -c $< -o $@
$B/library/steps/%.o: INSIDE = -include common/library/inside.h

# One object, so that what steps call across files is hidden in an archive, too. (Apple's linker hides it by itself.)
$B/libfrom_softmax.a: $(LIBRARY_O)
	@rm -f $@ $(if $(V),,&& echo "  archive $@")
	$Q$(CC) -r -nostdlib $(LIBRARY_O) -o $B/library/from_softmax.o
	$Q$(if $(shell command -v $(OBJCOPY) 2>/dev/null),$(OBJCOPY) --localize-hidden $B/library/from_softmax.o)
	$Q$(or $(wildcard $(OBJCOPY:%objcopy=%ar)),ar) rcs $@ $B/library/from_softmax.o

$B/libfrom_softmax.so: $(LIBRARY_O)
	@$(if $(V),,echo "  link    $@")
	$Q$(CC) $(CFLAGS) $(OPENMP) -shared $(if $(filter Linux,$(shell uname)),-Wl$(comma)-soname$(comma)$(SONAME)) $^ -o $@ -lm

# ---- what a reader does

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
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(LIBRARY_VERSION)|; s|@OPENMP@|$(filter -fopenmp,$(OPENMP))|' \
	    common/library/from_softmax.pc.in >'$(INSTALLED)/lib/pkgconfig/from_softmax.pc'

.PHONY: library install

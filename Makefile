# SPDX-License-Identifier: GPL-2.0-only
#
# dm-loop, a device-mapper target: a block device on a regular file.
# See "make help". The module's own build is in Kbuild.

KERNELS := 6.1 6.12 7.2
KRELEASE ?= $(shell uname -r)
KDIR ?= /lib/modules/$(KRELEASE)/build
BUILD ?= build
DESTDIR ?=
prefix ?= /usr

VM := test/vm
NATIVE := $(abspath $(BUILD))/native
module_sources := Kbuild $(wildcard *.c *.h) $(wildcard compat/*)

ifeq ($(filter-out all,$(K)),)
kernels := $(KERNELS)
else
kernels := $(K)
endif

.PHONY: all help module native dmlosetup check check-debug soak demo shell lint install clean \
	update-kernels $(KERNELS:%=module-%) module-debug
.DEFAULT_GOAL := all

all: dmlosetup native

help:
	@echo 'make                      the module for the running kernel, and dmlosetup'
	@echo 'make install              both, the man page and bash completion (DESTDIR, prefix)'
	@echo 'make check                build for 6.1, 6.12 and 7.2 and run the tests'
	@echo 'make check T=name K=6.12  only that test (or pattern) on that kernel'
	@echo 'make check-debug          the same in a 7.2 with KASAN, lockdep and more, built once'
	@echo 'make demo KERNEL=6.12     see it work in a virtual machine'
	@echo 'make soak [K=6.12]        random load for an hour a test; DMLOOP_SOAK=SECONDS is another time'
	@echo 'make bench [B=NAME]       measure, against loop and others; without B: what there is'
	@echo 'make shell K=6.12         a shell in a virtual machine'
	@echo 'make module K=6.12|all    build/KERNEL/dm_loop.ko for a Debian kernel'
	@echo 'make lint                 checkpatch, sparse, cppcheck, clang-tidy, shellcheck'
	@echo 'make update-kernels       fetch newer Debian kernels into the cache'
	@echo 'make clean                remove what was built'
	@echo
	@echo 'check, demo, shell, module K= and lint are made for Debian 12: they install what is'
	@echo 'missing and keep kernels and images in $$DMLOOP_CACHE ($(if $(DMLOOP_CACHE),$(DMLOOP_CACHE),~/.cache/dm-loop)).'

# --- for this machine ---

# From copies: the sources here are also built for other kernels.
native:
	@if [ ! -e $(KDIR)/Makefile ]; then \
		echo "The module is not built: there are no headers of kernel $(KRELEASE) in $(KDIR)."; \
		echo "On Debian install them with: apt install linux-headers-$(KRELEASE)"; \
		echo "For the virtual machines of the tests they are not needed: make check, make demo."; \
	else \
		mkdir -p $(NATIVE) && \
		cp -pu --parents $(module_sources) $(NATIVE)/ && \
		$(MAKE) -C $(KDIR) M=$(NATIVE) modules && \
		cp $(NATIVE)/dm_loop.ko $(BUILD)/; \
	fi

dmlosetup:
	@$(VM)/need dmlosetup
	$(MAKE) -C dmlosetup O=$(abspath $(BUILD))/dmlosetup

install: dmlosetup native
	$(MAKE) -C dmlosetup O=$(abspath $(BUILD))/dmlosetup prefix=$(prefix) DESTDIR=$(DESTDIR) install
	@if [ -e $(BUILD)/dm_loop.ko ]; then set -ex; \
		install -D -m 644 $(BUILD)/dm_loop.ko \
			$(DESTDIR)/lib/modules/$(KRELEASE)/updates/dm_loop.ko; \
		[ -n "$(DESTDIR)" ] || depmod -a $(KRELEASE); \
	else \
		echo "The module is not installed, as it was not built."; exit 1; \
	fi

clean:
	rm -rf $(BUILD)

# --- for the virtual machines ---

module: $(if $(K),$(kernels:%=module-%),native)

$(KERNELS:%=module-%) module-debug: module-%:
	@$(VM)/build-module $*

check:
	@$(VM)/check $(kernels)

check-debug:
	@$(VM)/check debug

soak:
	@T='$(or $(T),load-model load-fio crash-ext4 crash-xfs crash-inner refresh-random refresh-layout refresh-fail refresh-several refresh-fire file-memory fill-batch)' \
		DMLOOP_SOAK=$(or $(DMLOOP_SOAK),3600) \
		$(VM)/check $(or $(filter-out all,$(K)),$(if $(K),$(KERNELS),6.12))

demo:
	@$(VM)/demo $(or $(KERNEL),$(K),6.12)

shell:
	@$(VM)/guest $(or $(KERNEL),$(K),6.12)

.PHONY: bench
bench:
	@test/bench/bench $(if $(B),$(B) $(kernels))

lint:
	@test/lint

update-kernels:
	@for k in $(kernels); do $(VM)/get-kernel --update $$k || exit; done

export T SEED

# SPDX-License-Identifier: GPL-2.0
# Every command of the project; `make help` lists them.

# Arguments are checked before anything else is done: a wrong one costs no build.
quote = '$(subst ','\'',$(1))'
given := $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
ARGUMENTS := $(foreach name,JOBS ACCEL KERNEL_TARBALL SECONDS KERNELS PATTERN CONFIG SENDER VERSION CLEAN,$(call quote,$(name)=$($(name))))
wrong := $(shell scripts/arguments --for $(call quote,$(MAKECMDGOALS)) --given $(call quote,$(given)) $(ARGUMENTS))
ifneq ($(.SHELLSTATUS),0)
$(error $(wrong))
endif
# Scripts find them in their environment; the kernel's make must not take VERSION for its own, nor bash SECONDS.
MAKEOVERRIDES :=
unexport SECONDS VERSION

.PHONY: help demo watch test check race stress mutants cross deb deb-test series bisect-check shell tree export kernel image bench clean deps

help:           ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

demo: kernel    ## install, fetch, build, boot, and watch khugepaged collapse the heap of a redis server
	@demo/run

watch: kernel   ## thptop while khugepaged works on a redis server, until q; build/watch.svg plots it (SECONDS=60: ends by itself)
	@demo/watch $(call quote,$(SECONDS))

test: deps      ## everything that proves the series; ends in a count of passed, failed and skipped
	@scripts/tree --keep
	@tests/run

check: deps     ## the part of the tests that needs no guest: each patch applies, builds, is clean
	@scripts/tree --keep
	@tests/check

race: deps      ## race collapse against all that changes page tables, for SECONDS=60 on each kernel
	@scripts/tree --keep
	@tests/race $(or $(SECONDS),60)

stress:         ## not part of test: stress-ng's memory tests beside khugepaged at full pace, SECONDS=1800 with 2 CPUs, then with 4
	@scripts/deps stress
	@scripts/tree --keep
	@tests/stress $(or $(SECONDS),1800)

mutants: deps   ## break the kernel in small ways, one by one: which test notices? (PATTERN=name: only some)
	@scripts/tree --keep
	@tests/mutants/run $(call quote,$(PATTERN))

cross:          ## not part of test: mm/ builds for arm64, powerpc, s390x; a guest with a PMD of 512M runs khugepaged's tests
	@scripts/deps cross
	@scripts/tree --keep
	@tests/cross

deb:            ## Debian packages of the series' kernel, in build/packages; CONFIG=/boot/config-... for one like yours
	@scripts/deps deb
	@scripts/tree --keep
	@scripts/deb $(call quote,$(CONFIG))

deb-test: deb   ## not part of test: the package installed, booted, at work and removed again in a Debian guest (root)
	@tests/deb

series:         ## build/series: each topic as mails to send, checked as a list would (SENDER="NAME <ADDRESS>" signs them; VERSION=2)
	@scripts/deps series
	@scripts/tree
	@scripts/series $(call quote,$(SENDER)) $(call quote,$(VERSION))
	@tests/series

bisect-check: deps ## not part of test: build and boot the kernel after each patch (an hour)
	@scripts/tree --keep
	@tests/bisect

shell: image    ## a shell in the guest, with the selftests and bench tools; ./share is /share there
	@mkdir -p share
	@scripts/boot --shell --share "$(CURDIR)/share"

tree: deps      ## build/linux: the base as one commit, the series on top, one commit for each patch
	@scripts/tree

export:         ## write the commits of build/linux back to patches/
	@scripts/export

kernel: deps    ## the guest's kernel, from build/linux
	@scripts/tree --keep
	@scripts/build guest

image: kernel   ## the guest's programs: selftests and bench tools
	@scripts/selftests
	@bench/tools build/bench
	@scripts/image build/image.cpio build/selftests/kselftest/mm:/selftests \
		build/bench/folios build/bench/collapse_cost build/bench/hot_set build/bench/aging_cost build/bench/hint_flood

bench: deps     ## count guest instructions and seconds: the base, the series, Linux 7.3
	@scripts/deps bench
	@scripts/tree --keep
	@bench/run

clean:          ## delete build/, unless build/linux has work that is not in patches/ (CLEAN=force: even so)
	@scripts/clean

deps:           ## install what is missing (root or sudo)
	@scripts/deps

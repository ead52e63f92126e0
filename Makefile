# SPDX-License-Identifier: GPL-2.0
#
# dm-lease: build and test.
#
#   make                 the module for the stock Debian kernel, in .build/module/dm_lease.ko
#   make KDIR=<tree>     the module for a kernel tree of your own, with this machine's tools
#   make setup           toolchain and kernel (done by every target that needs them)
#   make leasectl        the administration tool
#   make deb             Debian packages of both, in .build/deb; MODULE_KEY= and MODULE_CERT= sign
#   make check           formatting, lints, house rules
#   make test            everything that is tested automatically
#   make model           every order of events of small portions: half an hour and 10 GiB; STATES=n
#                        is where the large ones are cut (6 million)
#   make mutants         what the tests say when a rule of the protocol is missing, rule by rule;
#                        a quarter of an hour; WORDS="latch stamp" chooses the mutants whose name
#                        contains one of these words
#   make mutation-score  changes of src/proto by a tool that knows no rules, and how many of them
#                        the tests notice: hours; SAMPLE=3/16 is every sixteenth from the third on;
#                        WORDS="latch stamp" as above
#   make simulate        random runs of simulated hosts, with faults, on all processors; SEEDS=n
#                        are the first n, SEEDS=a..b those from a to b; JOBS= runs at a time;
#                        LINES= is how much of a failure's timeline is printed
#   make fuzz            gives mutated inputs to each parser of what users type and members hold:
#                        RUNS=1000000 inputs, guided by coverage, and a hundredth as many to the
#                        module; SEED= is the seed of the mutations
#   make kselftest       the tests in virtual machines only
#   make strays          destroys and repairs data on md arrays, as much as the limit allows
#   make throughput      what the limit costs in throughput, by mode and queue depth
#   make bench           what a bio costs, in instructions, next to other targets; what takeovers
#                        cost, next to sanlock and o2hb; what many portions cost; and the two
#                        below. Half an hour on an idle machine; PARTS="rounds peers" chooses
#   make bench-gate      what the gate costs when several processors use it, next to other designs
#   make bench-takeover  how long nobody can write after a fault, in simulated time
#   make kselftest-debug the tests of `make kselftest`, and chaos, on a kernel with KASAN, lockdep,
#                        kmemleak and fault injection, which is built first (about 30 CPU minutes,
#                        once); then it takes an hour. Before, planted defects show that the reports
#                        of this kernel are noticed
#   make install-test    the packages, installed into Debian guests that boot, shut down and fail
#                        over, by the commands of README.md
#   make demo            two controllers, a stall and a takeover, to watch
#   make demo-clients    the same with a client over NVMe/TCP, which sees pauses and no errors;
#                        ROUNDS=20 faults by chance, SEED= repeats those of another run
#   make chaos           controllers in real kernels and faults by chance, judged from outside;
#                        ROUNDS=200 is about a quarter of an hour, SEED= repeats another run
#   make upstream        applies the patches that are offered to the kernel (scripts/upstream) to
#                        the source of the stock kernel, and builds what they touch
#   make clean           remove .build; the toolchain's cache stays
#   make help            this list
#
# Everything but KDIR builds runs inside the toolchain root (scripts/setup, scripts/enter), where
# the checkout is /src and the cache /cache. OUT= chooses another directory for the module.

KDIR ?=
OUT ?= .build/module

# make must not print a line for each directory that it enters or leaves.
MAKEFLAGS += --no-print-directory

enter := scripts/enter
# The stock kernel's own compiler by its full name: another one makes kbuild warn.
stock := -C /cache/linux CC=x86_64-linux-gnu-gcc-14
debug := -C /cache/linux-debug LLVM=-19
jobs := -j$(shell nproc)
crate := --quiet --locked --manifest-path selftests/proto/Cargo.toml

.PHONY: all setup module leasectl deb check test model mutants mutation-score simulate fuzz \
	kselftest kselftest-debug strays throughput install-test bench bench-gate bench-takeover demo \
	demo-clients chaos upstream clean help

all: module

setup:
	@scripts/setup

ifneq ($(KDIR),)
module:
	$(if $(wildcard $(KDIR)/rust/libkernel.rmeta),,$(error $(KDIR) is not a kernel tree \
		prepared with CONFIG_RUST=y (no rust/libkernel.rmeta)))
	@mkdir -p $(OUT)
	+$(MAKE) -C $(KDIR) M=$(CURDIR) MO=$(abspath $(OUT)) modules
else
module: setup
	@mkdir -p $(OUT)
	@$(enter) make $(jobs) $(stock) M=/src MO=/src/$(OUT) modules
endif

leasectl: setup
	@$(enter) cargo build --release --locked --manifest-path scripts/leasectl/Cargo.toml

deb: module leasectl
	@scripts/deb

check: setup
	@$(enter) scripts/check

test:
	@scripts/test

STATES ?=
model: setup
	@$(enter) env $(if $(STATES),STATES=$(STATES)) nice cargo test --locked --features long \
		--manifest-path selftests/proto/Cargo.toml --test model --test device_gate -- \
		--nocapture --test-threads 1

WORDS ?=
mutants: setup
	@$(enter) nice selftests/proto/mutants $(WORDS)

SAMPLE ?= 1/1
mutation-score: setup
	@$(enter) nice selftests/proto/mutation-score --sample $(SAMPLE) $(WORDS)

SEEDS ?= 20000
JOBS ?= $(shell nproc)
LINES ?= 400
simulate: setup
	@$(enter) env SEEDS=$(SEEDS) JOBS=$(JOBS) LINES=$(LINES) \
		DM_LEASE_COMMIT=$(shell git describe --always --dirty 2>/dev/null) \
		nice cargo test --profile simulate $(crate) --test simulation -- --nocapture r45

RUNS ?= 1000000
fuzz: module leasectl
	@$(enter) nice selftests/proto/fuzz/run --runs $(RUNS) $(if $(SEED),--seed $(SEED))

kselftest: module
	@selftests/run

strays: module leasectl
	@qemu/run strays

throughput: module leasectl
	@qemu/run throughput

PARTS ?=
bench: module leasectl
	@scripts/bench $(PARTS)

bench-gate bench-takeover: setup
	@scripts/bench $@

install-test: module leasectl
	@qemu/run handbook
	@qemu/run install

# First `qemu/run selftest` plants defects, to show that reports of this kernel are noticed.
watched := DM_LEASE_KERNEL=/cache/kernel-debug
kselftest-debug: leasectl
	@scripts/debug-kernel
	@mkdir -p .build/module-debug/planted
	@$(enter) make $(jobs) $(debug) M=/src MO=/src/.build/module-debug modules
	@$(enter) make $(debug) M=/src/qemu/planted/debug MO=/src/.build/module-debug/planted modules
	@$(watched) qemu/run selftest
	@$(watched) qemu/run kselftest
	@$(watched) qemu/run chaos --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED))

demo: module
	@qemu/run demo

ROUNDS ?= 20
SEED ?=
demo-clients: module leasectl
	@qemu/run clients --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED))

chaos: module leasectl
	@qemu/run chaos --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED))

upstream: setup
	@scripts/upstream/check

clean:
	rm -rf .build

# The comment at the head of this file, without its license.
help:
	@sed -n '3,/^[^#]*$$/s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

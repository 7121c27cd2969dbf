# `make demo` and `make test` do all set-up themselves; see README.md.

CARGO ?= cargo
export PATH := $(HOME)/.cargo/bin:$(PATH)
HOST := x86_64-unknown-linux-gnu

.PHONY: help demo test soak fuzz bench fmt lint setup setup-fuzz setup-bench imgtool hook agent control clean

help:
	@echo "make demo    build releases, boot them in QEMU, roll one out to two nodes, report"
	@echo "make test    every test, the whole-system ones in QEMU included"
	@echo "make soak    the power cuts of the tests, ten times as many and more, and make fuzz; hours"
	@echo "make fuzz    each parser against made-up input for 10 minutes; needs nightly Rust"
	@echo "make bench   speed and size, each against a peer measured in the same run"
	@echo "make imgtool hook agent control    the programs, in target/"
	@echo "make fmt lint        format; clippy, shellcheck, cargo deny"

# What runs on this machine; the programs of a node have a profile of their own.
.PHONY: programs
programs:
	$(CARGO) build --release --quiet --workspace --bins --exclude cairn-agent --exclude cairn-initramfs-hook

demo: setup programs
	$${CARGO_TARGET_DIR:-target}/release/demo

# Machines under emulation wait half of the time, so more tests run than there are processors.
# The first tests wait even more, for clocks and networks: meanwhile what nodes run is built.
# A test that fails hides no other. An error says where it comes from; a backtrace would bury it. There are no tests in docs (tests/tests/architecture.rs).
TEST := test --workspace --lib --bins --tests --examples
test: setup
	$(CARGO) $(TEST) --no-run
	$(MAKE) --no-print-directory agent hook & \
	RUST_BACKTRACE=0 RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((2 * $$(nproc)))} INSTA_UPDATE=no $(CARGO) $(TEST) --no-fail-fast; \
	tests=$$?; wait $$! && exit $$tests

# CAIRN_SEED=<number> repeats the power cuts of another run.
soak: setup setup-fuzz
	CAIRN_SOAK=1 $(CARGO) test -p cairn-tests --test system power_cut -- --nocapture
	.ci/fuzz

# FUZZ_SECONDS=<number> is how long each target runs.
fuzz: setup-fuzz
	.ci/fuzz

bench: setup-bench programs
	$${CARGO_TARGET_DIR:-target}/release/bench

# Installs what is missing. Needs root, or does nothing if all is there.
setup:
	.ci/setup

# The same for the benchmarks' peers, and for fuzzing: nightly Rust, cargo-fuzz, a C++ compiler.
setup-bench:
	.ci/setup bench

setup-fuzz:
	.ci/setup-fuzz

imgtool:
	$(CARGO) build --release -p cairn-imgtool

# The initramfs has no C library, so the hook brings its own.
hook:
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --profile node \
		--target $(HOST) -p cairn-initramfs-hook

# Linked with the C library of where it runs, for host names.
agent:
	$(CARGO) rustc --profile node --target $(HOST) -p cairn-agent --bin cairn-agent -- \
		-C link-arg=-Wl,-T,$(CURDIR)/agent/no-unwinding.ld,--no-eh-frame-hdr \
		-C link-arg=-Wl,--icf=all,-z,pack-relative-relocs -C llvm-args=-enable-machine-outliner=always

control:
	$(CARGO) build --release -p cairn-control-plane

fmt:
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml

lint:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	.ci/shellcheck
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --offline check bans licenses sources

clean:
	$(CARGO) clean

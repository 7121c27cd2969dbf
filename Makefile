# `make demo` and `make test` do all set-up themselves; see README.md.

CARGO ?= cargo
export PATH := $(HOME)/.cargo/bin:$(PATH)
HOST := x86_64-unknown-linux-gnu

.PHONY: help demo test bench fmt lint setup imgtool hook clean

help:
	@echo "make demo    build two releases, flash a disk, boot both in QEMU, report"
	@echo "make test    every test, the whole-system ones in QEMU included"
	@echo "make bench   speed and size, each against a peer measured in the same run"
	@echo "make imgtool hook    the programs, in target/"
	@echo "make fmt lint        format; clippy, shellcheck, cargo deny"

demo: setup
	$(CARGO) run --release --quiet -p cairn-tests --bin demo

test: setup
	INSTA_UPDATE=no $(CARGO) test --workspace

bench: setup
	$(CARGO) run --release --quiet -p cairn-tests --bin bench

# Installs what is missing. Needs root, or does nothing if all is there.
setup:
	.ci/setup

imgtool:
	$(CARGO) build --release -p cairn-imgtool

# The initramfs has no C library, so the hook brings its own.
hook:
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --profile node \
		--target $(HOST) -p cairn-initramfs-hook

fmt:
	$(CARGO) fmt --all

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	.ci/shellcheck
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --offline check bans licenses sources

clean:
	$(CARGO) clean

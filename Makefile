# make demo      build, start three nodes, load real data, kill the leader, verify, show where to look
# make test      every test
# make build     release binaries flotilla-server, kvctl, flotilla-operator
# make verify    format, lints, licences, docs: reads only
# make fix       writes what verify asks for, where a program can
# make bench     three nodes of ours against three of etcd
# make setup     installs what a Debian machine lacks; the others do it by themselves
#
# What is built lands in CARGO_TARGET_DIR, by default outside of the checkout, so that a fresh clone
# finds RocksDB compiled (16 minutes on two cores).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.PHONY: setup build faults demo test verify deny fix bench

CARGO_TARGET_DIR ?= $(HOME)/.cache/flotilla/target
export CARGO_TARGET_DIR
BIN := $(CARGO_TARGET_DIR)/release
TOOLS := $(HOME)/.cache/flotilla/tools

# One profile for product, tests and lints. And always these two selections of packages: cargo
# unifies features over a selection, and with the operator's the build script of RocksDB becomes
# another one, so that RocksDB would be compiled twice.
CORE := --release --locked --workspace --exclude flotilla-operator
OPERATOR := --release --locked --package flotilla-operator

# As command:package of Debian. The second line is for the tests: file systems of fixed size,
# jumping clocks, networks with faults, a client in another language.
NEEDS := cc:build-essential make:build-essential pkg-config:pkg-config clang:clang git:git \
  curl:curl python3:python3 mkfs.ext4:e2fsprogs losetup:mount ip:iproute2 faketime:faketime

setup:
	@missing=(); \
	for need in $(NEEDS); do \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v "$${need%%:*}" >/dev/null || missing+=("$${need#*:}"); \
	done; \
	compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || ldconfig -p 2>/dev/null | grep libclang >/dev/null \
	  || missing+=(libclang-dev); \
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv); \
	command -v cargo >/dev/null || [ -x "$$HOME/.cargo/bin/cargo" ] || missing+=(rustup); \
	if [ "$${#missing[@]}" -gt 0 ]; then \
	  if ! command -v apt-get >/dev/null; then \
	    echo "Missing here, by the names of Debian's packages: $${missing[*]}"; \
	    echo "Install what your system calls them, then run this again."; exit 1; \
	  fi; \
	  if [ "$$(id -u)" -eq 0 ]; then root=(); \
	  elif sudo -n true 2>/dev/null; then root=(sudo); \
	  else echo "Missing: $${missing[*]}. Run: sudo apt-get install $${missing[*]}"; exit 1; fi; \
	  "$${root[@]}" apt-get update -qq; \
	  if [ "$${missing[-1]}" = rustup ] && ! apt-cache show rustup >/dev/null 2>&1; then \
	    unset 'missing[-1]'; \
	  fi; \
	  if [ "$${#missing[@]}" -gt 0 ]; then \
	    echo "Installing $${missing[*]}"; \
	    DEBIAN_FRONTEND=noninteractive "$${root[@]}" apt-get install -y -qq --no-install-recommends \
	      "$${missing[@]}" >/dev/null; \
	  fi; \
	fi
	@if ! command -v cargo >/dev/null; then \
	  echo "Rust is missing. Install rustup (a package of Debian 13 and later; see the site of Rust"; \
	  echo "for others), then run this again: the version is in rust-toolchain.toml."; exit 1; \
	fi
	@rustc --version >/dev/null 2>&1 \
	  || rustup toolchain install "$$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)" \
	    --profile minimal --component rustfmt,clippy

build: setup
	cargo build $(CORE) --bin flotilla-server --bin kvctl
	cargo build $(OPERATOR) --bin flotilla-operator

# The server again, with failpoints, for tests only. The feature changes the server, nothing below.
faults: setup
	cargo build $(CORE) --features flotilla-server/failpoints --bin flotilla-server-faults

# DEMO_EXIT=1 ends it by itself.
demo: build
	$(BIN)/flotilla-server demo

test: build faults
	cargo test $(CORE)
	cargo test $(OPERATOR)

verify: setup deny
	cargo fmt --all --check
	cargo clippy $(CORE) --all-targets -- -D warnings
	cargo clippy $(OPERATOR) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(CORE) --no-deps
	RUSTDOCFLAGS="-D warnings" cargo doc $(OPERATOR) --no-deps

# Advisories need their database, which is fetched: where it cannot be, that is said and the rest
# is still checked.
deny: $(TOOLS)/bin/cargo-deny
	$(TOOLS)/bin/cargo-deny --locked check licenses bans sources
	@if timeout 60 $(TOOLS)/bin/cargo-deny --locked fetch db >/dev/null 2>&1; then \
	  $(TOOLS)/bin/cargo-deny --locked check --disable-fetch advisories; \
	else \
	  echo "SKIPPED: advisories, their database cannot be fetched from here"; \
	fi

# A debug build: it takes a third of the time, and checking takes no time at all.
$(TOOLS)/bin/cargo-deny:
	env -u CARGO_TARGET_DIR cargo install cargo-deny --locked --debug --version 0.20.2 --root $(TOOLS)

fix: setup
	cargo fmt --all
	cargo clippy $(CORE) --all-targets --fix --allow-dirty --allow-staged
	cargo clippy $(OPERATOR) --all-targets --fix --allow-dirty --allow-staged
	cargo run $(CORE) --bin flotilla-server -- config docs > docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md
	cargo run $(CORE) --bin flotilla-server -- metrics-docs > docs/observability.md.new
	mv docs/observability.md.new docs/observability.md

bench: build
	cargo build $(CORE) --bin flotilla-bench
	$(BIN)/flotilla-bench compare --gates

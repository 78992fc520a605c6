# terok-shield: `make` yields one static, stripped binary. See README.md.

TARGET  ?= $(shell uname -m)-unknown-linux-musl
PREFIX  ?= /usr/local
DESTDIR ?=
CARGO   ?= cargo

CARGO_HOME ?= $(HOME)/.cargo
CARGO_TARGET_DIR ?= target
export PATH := $(PATH):$(CARGO_HOME)/bin
COMPAT  := $(abspath $(CARGO_TARGET_DIR))/compat/$(TARGET)
BINARY  := $(CARGO_TARGET_DIR)/$(TARGET)/release/terok-shield
ARCH    := $(firstword $(subst -, ,$(TARGET)))
HOST    := $(shell uname -m)
# A ceiling, not a goal: the binary is copied into prepared hosts and images.
MAX_SIZE := 1048576

# Linked by Rust's own lld against its own musl start files: the same for every target, and it
# sidesteps musl-gcc, whose specs turn -static-pie into a dynamically linked program silently.
# On x86_64 the result is position-independent (ASLR), with read-only relocations, packed; rustc
# has no static PIE for aarch64 musl yet.
STATIC_FLAGS := -C target-feature=+crt-static -C relocation-model=pic \
	-C llvm-args=-enable-machine-outliner=always \
	-C linker=rust-lld -C linker-flavor=ld.lld -C link-self-contained=yes \
	-C link-arg=--icf=all -C link-arg=-zpack-relative-relocs -C link-arg=-zrelro \
	-C link-arg=-znow -C link-arg=--build-id=none \
	-C link-arg=-T$(CURDIR)/compat/no-eh-frame.ld -C link-arg=--no-eh-frame-hdr \
	--remap-path-prefix=$(CARGO_HOME)/registry/src=cargo --remap-path-prefix=$(CURDIR)=.

.PHONY: all deps install test demo bench lab lint clean FORCE
# deps, lab and the build come one after the other, whatever -j says.
.NOTPARALLEL:

all: $(BINARY)
	@sh compat/check-static $(BINARY) $(MAX_SIZE)

$(BINARY): $(COMPAT)/libnftnl.a FORCE
	LIBMNL_LIB_DIR=$(COMPAT) LIBNFTNL_LIB_DIR=$(COMPAT) RUSTFLAGS="$(STATIC_FLAGS)" \
		$(CARGO) build --locked --release --target $(TARGET)

$(COMPAT)/libnftnl.a: compat/build compat/mnl.c compat/fortify.c compat/expr_ops.c
	compat/build $(TARGET) $(COMPAT)

FORCE:

# What a bare Debian 12 lacks to build; quick where nothing is missing. As root.
deps:
	sh compat/deps $(TARGET)

# DESTDIR and PREFIX as everywhere. The applet links lead to the binary in the same folder.
install: all
	sh compat/install $(BINARY) "$(DESTDIR)" "$(PREFIX)"

# Every test, kernel and containers included, against the binary just built. As root.
test: deps lab all
	bash tests/run $(BINARY)

# A real rootless container under the shield, shown and checked step by step. As root.
demo: deps lab all
	sh demo/run $(BINARY)

# This binary beside its peers, interleaved; the figures go to stdout. As root.
bench: deps lab all
	sh benches/run $(BINARY)

# What running containers takes, in namespaces of their own.
lab: deps
	tests/lab/setup

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

clean:
	$(CARGO) clean

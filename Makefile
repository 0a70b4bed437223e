# The two commands of the README are `make run` and `make test`; each does all the set-up that it needs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Cargo's own variable decides where everything is built; the components go into `plugins` below it.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# More arguments for `make run`, for example ARGS="--listen 127.0.0.1:9000"
ARGS ?=

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 12

.PHONY: setup
setup:
	@command -v cargo >/dev/null || { echo 'cargo is missing: install Rust 1.95 or newer from https://rustup.rs' >&2; exit 1; }
	@command -v cc >/dev/null || { echo 'a C compiler is missing (SQLite and the TLS library need one): install gcc or clang' >&2; exit 1; }
	@test -d "$$(rustc --print sysroot)/lib/rustlib/wasm32-wasip2" || rustup target add wasm32-wasip2 || \
	  { echo 'the Rust target wasm32-wasip2 is missing and could not be added: rustup target add wasm32-wasip2' >&2; exit 1; }

.PHONY: plugins
plugins: setup ## Build the built-in handlers (and the hostile one, for tests) as components
	CARGO_TARGET_DIR="$(TARGET)" plugins/build.sh

# Built first and then started by the shell, so that the process gets the signals that are meant for it. With --workspace the
# dependencies get the same features as in `make test`, so a machine that does both compiles wasmtime once.
.PHONY: run
run: plugins ## Build everything and run it on embedded stores, at http://127.0.0.1:8000
	cargo build --workspace --locked --bin taskforge
	exec "$(TARGET)/debug/taskforge" dev $(ARGS)

.PHONY: test
test: plugins ## Build everything and run all tests
	cargo test --workspace --locked

.PHONY: lint
lint: setup ## Check the format and the lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# In the profile of `make run` and `make test`, which optimises, so that nothing is compiled twice for it.
.PHONY: bench
bench: plugins ## Measure the sandbox, the store and the whole embedded system
	cargo bench --workspace --profile dev --locked --bench invoke --bench sqlite
	cargo build --workspace --locked --bin taskforge
	"$(TARGET)/debug/taskforge" demo --tasks 20000 --workers 1 --type fibonacci --input '{"n": 20}' --plugins "$(TARGET)/plugins"

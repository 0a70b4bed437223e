# `make run` and `make test` are the two commands of the README. Each does the set-up that it needs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Cargo's own variable decides where everything is built; the components go into `plugins` below it.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# More arguments for `make run`, for example ARGS="--listen 127.0.0.1:9000"
ARGS ?=

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

.PHONY: setup
setup:
	@command -v cargo >/dev/null || { echo 'cargo is missing: install Rust 1.95 or newer from https://rustup.rs' >&2; exit 1; }
	@command -v cc >/dev/null || { echo 'a C compiler is missing (SQLite and the TLS library need one): install gcc or clang' >&2; exit 1; }
	@test -d "$$(rustc --print sysroot)/lib/rustlib/wasm32-wasip2" || rustup target add wasm32-wasip2 || \
	  { echo 'the Rust target wasm32-wasip2 is missing and could not be added: rustup target add wasm32-wasip2' >&2; exit 1; }

# Tests start servers of their own, on free ports of loopback, from these programs.
.PHONY: servers
servers:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
	  { echo 'PostgreSQL is missing (its server programs, not a running server): on Debian, apt-get install postgresql' >&2; exit 1; }
	@command -v redis-server >/dev/null || \
	  { echo 'redis-server is missing (the program, not a running server): on Debian, apt-get install redis-server' >&2; exit 1; }
	@command -v setpriv >/dev/null || { echo 'setpriv is missing: install util-linux' >&2; exit 1; }
	@command -v python3 >/dev/null || { echo 'python3 is missing, which the example of an external worker needs' >&2; exit 1; }

.PHONY: plugins
plugins: setup ## Build the built-in handlers as components
	CARGO_TARGET_DIR="$(TARGET)" plugins/build.sh shipped

.PHONY: test-plugins
test-plugins: setup ## The same, and the components that only tests need
	CARGO_TARGET_DIR="$(TARGET)" plugins/build.sh

# `exec`, so that the server gets the shell's signals. With --workspace the dependencies have the
# same features as in `make test`, so that both share one build of wasmtime.
.PHONY: run
run: plugins ## Build everything and run it on embedded stores, at http://127.0.0.1:8000
	cargo build --workspace --locked --bin taskforge
	exec "$(TARGET)/debug/taskforge" dev $(ARGS)

.PHONY: test
test: test-plugins servers ## Build everything and run all tests
	cargo test --workspace --locked

# One scenario after the other, at full length: some ten minutes. Prints the table of
# docs/reliability.md.
.PHONY: chaos
chaos: test-plugins servers ## Kill, stop, flush and cut off everything under load, and count what was lost
	TASKFORGE_CHAOS=full cargo test --workspace --locked --test fleet chaos:: -- --nocapture --test-threads 1

# Installs its tool from PyPI the first time.
.PHONY: schemathesis
schemathesis: plugins ## Hold a server against its OpenAPI document with generated requests
	@command -v python3 >/dev/null || { echo 'python3 is missing, which schemathesis needs' >&2; exit 1; }
	cargo build --workspace --locked --bin taskforge
	.ci/schemathesis "$(TARGET)/debug/taskforge" "$(TARGET)/plugins" "$(abspath $(TARGET))"

# Installs its tools from PyPI and the npm registry the first time.
.PHONY: clients
clients: plugins ## Generate clients from the OpenAPI document, and use them on a server
	@command -v python3 >/dev/null || { echo 'python3 is missing, which the generator needs' >&2; exit 1; }
	cargo build --workspace --locked --bin taskforge
	.ci/clients/run "$(TARGET)/debug/taskforge" "$(TARGET)/plugins" "$(abspath $(TARGET))"

.PHONY: lint
lint: setup ## Check the format, the lints and the deployment files
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	deploy/check.sh

# The profile that is deployed and measured. It shares no build with `make run` and `make test`.
.PHONY: release
release: plugins ## Build the binary for use, stripped: target/release/taskforge
	cargo build --workspace --release --locked --bin taskforge

.PHONY: bench
bench: release ## Measure the sandbox, the store and the whole embedded system
	cargo bench --workspace --locked --bench invoke --bench loading --bench sqlite
	"$(TARGET)/release/taskforge" demo --tasks 20000 --workers 1 --type fibonacci --input '{"n": 20}' --plugins "$(TARGET)/plugins"

# Compares with the ceiling of the same machine. Leaves the servers as they were.
.PHONY: bench-fleet
bench-fleet: release ## Measure a fleet on the PostgreSQL and Redis that DATABASE_URL and REDIS_URL name
	@test -n "$$DATABASE_URL" || { echo 'say where a database can be made for it: DATABASE_URL=postgres://...' >&2; exit 1; }
	"$(TARGET)/release/taskforge" bench --plugins "$(TARGET)/plugins" $(ARGS)

# Starts a PostgreSQL and a Redis of its own. ARGS="live swap attacks" are its parts.
.PHONY: bench-plugins
bench-plugins: test-plugins servers ## Measure how plugins go live, what a swap costs its neighbours, and how far attacks reach
	cargo bench --workspace --locked --bench plugins -- $(ARGS)

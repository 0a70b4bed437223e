# syntax=docker/dockerfile:1

# The image of every role: `taskforge serve`, `worker`, `migrate`, and the client commands.
#
#   docker build -t taskforge:local .
#   docker run --rm taskforge:local --help

ARG RUST_VERSION=1.95
# Anything with glibc 2.36 or newer and libgcc serves. A base without a shell does too: nothing here
# needs one.
ARG BASE=debian:bookworm-slim

FROM rust:${RUST_VERSION}-bookworm AS build
RUN rustup target add wasm32-wasip2
WORKDIR /src
COPY . .
# The caches keep dependencies, and wasmtime above all, from being compiled again for each change.
# They are not part of any layer, so the results are copied out of them in the same step. A target
# folder takes one cargo at a time, hence the lock.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/usr/local/cargo/git \
    --mount=type=cache,target=/target,sharing=locked <<'STEPS'
    set -eu
    export CARGO_TARGET_DIR=/target
    # An earlier build may have left a plugin that no longer exists.
    rm -rf /target/plugins
    plugins/build.sh shipped
    cargo build --workspace --release --locked --bin taskforge
    install -D -m 755 /target/release/taskforge /image/usr/local/bin/taskforge
    mkdir -p /image/usr/share/taskforge /state
    cp -r /target/plugins /image/usr/share/taskforge/plugins
    cp LICENSE /image/usr/share/taskforge/
STEPS

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="TaskForge" \
      org.opencontainers.image.description="A task queue whose handlers are WebAssembly components" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# For TLS to PostgreSQL; what plugins reach over HTTPS is checked against authorities that are
# compiled in.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /image/ /
# The one place that is written to: compiled code, and the outbox of the mailer `log`. Both may be
# lost. A new named volume takes over the owner from here.
COPY --from=build --chown=10001:10001 /state/ /var/lib/taskforge/
VOLUME /var/lib/taskforge

# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
WORKDIR /var/lib/taskforge

# Nobody reaches loopback in a container, so the addresses of the binary's defaults do not serve
# here. On others the API asks for a key.
ENV TASKFORGE_PLUGINS=/usr/share/taskforge/plugins \
    TASKFORGE_DATA_DIR=/var/lib/taskforge \
    TASKFORGE_LISTEN=0.0.0.0:8000 \
    TASKFORGE_ADMIN_LISTEN=0.0.0.0:9464
EXPOSE 8000 9464

# Ready, not only alive: the database answers. A worker that compiles large plugins for the first
# time takes its time.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 CMD ["taskforge", "health"]

ENTRYPOINT ["taskforge"]
CMD ["--help"]

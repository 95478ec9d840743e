# docker build --target server   -t flotilla .
# docker build --target operator -t flotilla-operator .
#
# The caches keep what was compiled between builds: RocksDB alone takes minutes.

FROM rust:1.95.0-trixie AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends clang libclang-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ENV CARGO_TARGET_DIR=/target

# The same selections of packages as in the Makefile, for the same reason.
FROM build AS build-server
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/target \
    cargo build --release --locked --workspace --exclude flotilla-operator \
      --bin flotilla-server --bin kvctl \
 && strip --strip-debug -o /usr/local/bin/flotilla-server /target/release/flotilla-server \
 && strip --strip-debug -o /usr/local/bin/kvctl /target/release/kvctl

FROM build AS build-operator
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/target \
    cargo build --release --locked --package flotilla-operator --bin flotilla-operator \
 && strip --strip-debug -o /usr/local/bin/flotilla-operator /target/release/flotilla-operator

# RocksDB is C++.
FROM debian:trixie-slim AS base
RUN apt-get update \
 && apt-get install -y --no-install-recommends libstdc++6 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 65532 --user-group --no-create-home --shell /usr/sbin/nologin flotilla \
 && install -d -o 65532 -g 65532 /data

FROM base AS operator
COPY --from=build-operator /usr/local/bin/flotilla-operator /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["flotilla-operator"]

# Last, so that it is what a build without a target makes.
FROM base AS server
COPY --from=build-server /usr/local/bin/flotilla-server /usr/local/bin/kvctl /usr/local/bin/
USER 65532:65532
VOLUME /data
EXPOSE 7420 7421 7422
ENV FLOTILLA_DATA_DIR=/data \
    FLOTILLA_CLIENT_ADDR=0.0.0.0:7420 \
    FLOTILLA_PEER_ADDR=0.0.0.0:7421 \
    FLOTILLA_HTTP_ADDR=0.0.0.0:7422
HEALTHCHECK --interval=10s --timeout=3s CMD ["flotilla-server", "healthcheck"]
ENTRYPOINT ["flotilla-server"]

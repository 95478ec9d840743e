# Programs compiled in here, for people (needs BuildKit, the default of `docker build`):
#
#   docker build --target server   -t flotilla-server .
#   docker build --target operator -t flotilla-operator .
#
# Programs that are there already, in seconds: `make images`. It takes the targets server-prebuilt and
# operator-prebuilt, which stand first, so that a builder without BuildKit never comes to the compiler.
#
# The base needs a C library as new as the one the programs were linked with, and libstdc++ (RocksDB is
# C++): any Debian of the same release, or distroless' `cc`. No shell is needed, here or later.
#
# By digest, whoever wants the same bytes tomorrow: --build-arg BASE=debian@sha256:… For several platforms at
# once: docker-bake.hcl.
ARG BASE=debian:trixie-slim
ARG RUST=rust:1.95.0-trixie

# Everything of an image but its programs. Numbers, since names would need a passwd file.
FROM ${BASE} AS operator-base
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="flotilla-operator" \
      org.opencontainers.image.description="The Kubernetes operator of Flotilla" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["flotilla-operator"]
CMD ["run"]

FROM ${BASE} AS server-base
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="flotilla-server" \
      org.opencontainers.image.description="A strongly consistent, range-sharded key-value store" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV FLOTILLA_CONFIG=/etc/flotilla.yaml
USER 65532:65532
EXPOSE 7420 7421 7422
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["flotilla-server", "healthcheck"]
ENTRYPOINT ["flotilla-server"]

# The context is a folder with the programs, deploy/image.yaml, an empty folder `data`, and a folder `sbom`: what the
# programs are made of (CycloneDX), which may be empty.
FROM operator-base AS operator-prebuilt
COPY flotilla-operator /usr/local/bin/
COPY sbom /usr/share/doc/flotilla

FROM server-base AS server-prebuilt
COPY image.yaml /etc/flotilla.yaml
COPY flotilla-server kvctl /usr/local/bin/
COPY sbom /usr/share/doc/flotilla
COPY --chown=65532:65532 data /data
VOLUME /data

# The caches keep what was compiled between builds: RocksDB alone takes minutes. One per platform, since what
# build scripts make is for the platform that they run on, and two builds at once would spoil each other's.
FROM ${RUST} AS build
ARG TARGETPLATFORM
ARG TARGETARCH
RUN apt-get update \
 && apt-get install -y --no-install-recommends clang libclang-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ENV CARGO_TARGET_DIR=/target

# The same selections of packages as in the Makefile, for the same reason.
FROM build AS build-server
RUN --mount=type=cache,id=flotilla-registry-${TARGETPLATFORM},target=/usr/local/cargo/registry \
    --mount=type=cache,id=flotilla-target-${TARGETPLATFORM},target=/target \
    # The allocator is compiled for one size of pages, and must not be for less than the machine's: 64 KiB on
    # some arm64.
    if [ "${TARGETARCH}" = arm64 ]; then export JEMALLOC_SYS_WITH_LG_PAGE=16; fi; \
    cargo build --release --locked --workspace --exclude flotilla-operator \
      --exclude flotilla-kubernetes-tests --bin flotilla-server --bin kvctl \
 && mkdir -p /out/data \
 && strip --strip-debug -o /out/flotilla-server /target/release/flotilla-server \
 && strip --strip-debug -o /out/kvctl /target/release/kvctl

FROM build AS build-operator
RUN --mount=type=cache,id=flotilla-registry-${TARGETPLATFORM},target=/usr/local/cargo/registry \
    --mount=type=cache,id=flotilla-target-${TARGETPLATFORM},target=/target \
    cargo build --release --locked --package flotilla-operator --package flotilla-kubernetes-tests \
      --bin flotilla-operator \
 && mkdir -p /out \
 && strip --strip-debug -o /out/flotilla-operator /target/release/flotilla-operator

FROM operator-base AS operator
COPY --from=build-operator /out/flotilla-operator /usr/local/bin/

# Last, so that it is what a build without a target makes.
FROM server-base AS server
COPY deploy/image.yaml /etc/flotilla.yaml
COPY --from=build-server /out/flotilla-server /out/kvctl /usr/local/bin/
COPY --from=build-server --chown=65532:65532 /out/data /data
VOLUME /data

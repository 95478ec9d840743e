# make demo      build, start three nodes, load real data, kill the leader, verify, show where to look
# make test      every test
# make sim       the simulator: SEEDS=10000, FROM=1, JOBS=2, SCENARIO=membership; SEED=7 runs one of it, with its log (RUST_LOG)
# make build     release binaries flotilla-server, kvctl, flotilla-operator
# make verify    format, lints, licences, docs: reads only
# make fix       writes what verify asks for, where a program can
# make bench     three nodes of ours against three of etcd
# make images    container images from the release binaries, in seconds: TAG=dev, IMAGE_BASE=…
# make manifests writes what follows from the chart, the operator and the values
# make e2e       the short scenarios on a real Kubernetes, make e2e-all: all; see tests/kubernetes/run
# make charts    checks the chart, manifests, dashboards and alert rules: reads only
# make setup     installs what a Debian machine lacks; the others do it by themselves
#
# What is built lands in CARGO_TARGET_DIR, by default outside of the checkout, so that a fresh clone
# finds RocksDB compiled, which is most of the first build.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.PHONY: setup build faults demo test verify deny fix bench images manifests charts

CARGO_TARGET_DIR ?= $(HOME)/.cache/flotilla/target
export CARGO_TARGET_DIR
BIN := $(CARGO_TARGET_DIR)/release
TOOLS := $(HOME)/.cache/flotilla/tools

# What is pinned below $(TOOLS): another version here makes the tool anew.
CARGO_DENY := 0.20.2
CARGO_SBOM := 0.10.0
$(TOOLS)/pins/%:
	@mkdir -p $(@D) && rm -f $(@D)/$(firstword $(subst @, ,$*))@* && touch $@

# One profile for product, tests and lints. And always these two selections of packages: cargo
# unifies features over a selection, and with the operator's the build script of RocksDB becomes
# another one, so that RocksDB would be compiled twice.
CORE := --release --locked --workspace --exclude flotilla-operator --exclude flotilla-kubernetes-tests
OPERATOR := --release --locked --package flotilla-operator --package flotilla-kubernetes-tests

# As command:package of Debian. The second line is for the tests: file systems of fixed size,
# jumping clocks, networks with faults, a client in another language.
NEEDS := cc:build-essential make:build-essential pkg-config:pkg-config clang++:clang git:git \
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
	cargo build $(CORE) --features flotilla-server/failpoints --bin flotilla-server-faults \
	  --config 'profile.release.package.flotilla-server.opt-level=1'

# Builds what it runs and names, and no more: a newcomer waits for it. DEMO_EXIT=1 ends it by itself.
demo: setup
	cargo build $(CORE) --bin flotilla-server --bin kvctl
	$(BIN)/flotilla-server demo

# Unit tests of the core are compiled without optimization, which takes a minute; with it, six, to run for half a minute
# less. That is for our own code and for them alone: what is below stays as it is, and what is tested as a program is
# what is shipped. (The operator's simulation runs for longer than it compiles.)
UNOPTIMIZED := $(foreach package,server client tests,--config 'profile.release.package.flotilla-$(package).opt-level=0')

test: build faults
	@# Among them: that each fault which can be switched on for the simulator is one (server/src/world/known_bad.rs).
	cargo test $(CORE) --lib --test sim_invariants $(UNOPTIMIZED) $(KNOWN_BAD_TOO)
	SEEDS=$${SEEDS:-200} cargo test $(CORE) --test sim $(SIMULATED)
	@# And that the simulator sees those faults, by the seeds that are known to show them.
	KNOWN_BAD= SEEDS=0 cargo test $(CORE) --test sim $(SIMULATED)
	@# Real processes are those that are shipped, made by `build`; what tests them is compiled as for the simulator.
	cargo test $(CORE) --test cluster --test edge --test faults $(SIMULATED)
	cargo test $(CORE) --doc $(UNOPTIMIZED) $(KNOWN_BAD_TOO)
	cargo test $(OPERATOR)

# With the switches of faults that were mended, all off. Nothing that is shipped, or tested as a program, has them.
KNOWN_BAD_TOO := --features flotilla-tests/known-bad

# A little optimization makes a seed four times as fast, and takes a minute or two more to compile: for many of them.
SIMULATED := $(foreach package,server client tests,--config 'profile.release.package.flotilla-$(package).opt-level=1') \
  $(KNOWN_BAD_TOO)

# What a seed decides is in tests/sim; what is not a number in its environment is the product's.
.PHONY: sim
sim: setup
	cargo test $(CORE) --test sim $(SIMULATED)

# Faults that were mended, each switched on again: make sim-known-bad SEEDS=500, KNOWN_BAD=votes-in-data for one.
.PHONY: sim-known-bad
sim-known-bad: setup
	KNOWN_BAD="$(KNOWN_BAD)" cargo test $(CORE) --test sim $(SIMULATED)

verify: setup deny charts
	python3 server/column.py
	python3 operator/circles.py
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
$(TOOLS)/bin/cargo-deny: $(TOOLS)/pins/cargo-deny@$(CARGO_DENY)
	env -u CARGO_TARGET_DIR cargo install cargo-deny --locked --debug --version $(CARGO_DENY) --root $(TOOLS)
	@touch $@

fix: setup
	cargo fmt --all
	cargo clippy $(CORE) --all-targets --fix --allow-dirty --allow-staged
	cargo clippy $(OPERATOR) --all-targets --fix --allow-dirty --allow-staged
	cargo run $(CORE) --bin flotilla-server -- config docs > docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md
	cargo run $(CORE) --bin flotilla-server -- metrics-docs > docs/observability.md.new
	mv docs/observability.md.new docs/observability.md
	python3 server/column.py --fix

bench: build
	cargo build $(CORE) --bin flotilla-bench
	$(BIN)/flotilla-bench compare --gates

# Images of what is built here. The base must have a C library as new as this machine's, so it is the
# same Debian; a local image of that name is taken before one that would be pulled. That the programs
# start on the base is tried at once. BINARIES is a folder of programs to take instead of building.
TAG ?= dev
DOCKER ?= docker
DEBIAN := $(shell . /etc/os-release 2>/dev/null; [ "$$ID" = debian ] && echo $$VERSION_CODENAME || echo trixie)
IMAGE_BASE ?= $(shell $(DOCKER) image inspect localhost/debian:$(DEBIAN) >/dev/null 2>&1 \
  && echo localhost/debian:$(DEBIAN) || echo debian:$(DEBIAN)-slim)
BINARIES ?=
# What the programs are made of, put into the images. Empty: without it, as in tests. Who brings programs along has
# nothing compiled for it.
SBOM ?= $(if $(BINARIES),$(wildcard $(TOOLS)/bin/cargo-sbom),$(TOOLS)/bin/cargo-sbom)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
REVISION := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LABELS = --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION)
CONTEXT := $(CARGO_TARGET_DIR)/images

$(TOOLS)/bin/cargo-sbom: $(TOOLS)/pins/cargo-sbom@$(CARGO_SBOM)
	env -u CARGO_TARGET_DIR cargo install cargo-sbom --locked --debug --version $(CARGO_SBOM) --root $(TOOLS)
	@touch $@

sbom_of = $(if $(SBOM),for package in $(1); do $(SBOM) --cargo-package $$package \
  --output-format cyclone_dx_json_1_6 > $(CONTEXT)/sbom/$$package.cdx.json; done)
images: $(if $(BINARIES),,build $(SBOM))
	@$(if $(SBOM),,echo "SKIPPED: what the images are made of (SBOM= is empty, or BINARIES= is given and there is no cargo-sbom)")
	@rm -rf $(CONTEXT) && mkdir -p $(CONTEXT)/data $(CONTEXT)/sbom && cp deploy/image.yaml $(CONTEXT)
	@for program in flotilla-server kvctl flotilla-operator; do \
	  strip --strip-debug -o $(CONTEXT)/$$program $(or $(BINARIES),$(BIN))/$$program; \
	done
	@$(call sbom_of,flotilla-server flotilla-client)
	$(DOCKER) build -q --build-arg BASE=$(IMAGE_BASE) $(LABELS) --target server-prebuilt \
	  -t localhost/flotilla-server:$(TAG) -f Dockerfile $(CONTEXT)
	@rm -f $(CONTEXT)/sbom/*
	@$(call sbom_of,flotilla-operator)
	$(DOCKER) build -q --build-arg BASE=$(IMAGE_BASE) $(LABELS) --target operator-prebuilt \
	  -t localhost/flotilla-operator:$(TAG) -f Dockerfile $(CONTEXT)
	@run="$(DOCKER) run --rm --network none --read-only --cap-drop ALL"; \
	  $$run localhost/flotilla-server:$(TAG) version && \
	  $$run --entrypoint kvctl localhost/flotilla-server:$(TAG) version && \
	  $$run localhost/flotilla-operator:$(TAG) version
	@rm -rf $(CONTEXT)

# Images for the end-to-end tests: those above, the server again under another tag, and the programs
# that the tests run beside a cluster. With FAULTS=1 also an operator that can be made to die anywhere:
# it takes minutes to compile and one scenario needs it, so that it is made when that one is chosen.
E2E_TAG ?= e2e
FAULTY := operator_killed_at_any_step_converges
FAULTS ?= $(if $(strip $(filter e2e-all,$(MAKECMDGOALS)) \
  $(foreach word,$(SCENARIOS),$(findstring $(word),$(FAULTY)))),1)
.PHONY: e2e-programs e2e-images e2e e2e-all
e2e-programs: setup
	cargo build $(CORE) --bin flotilla-server --bin kvctl --bin flotilla-workload
	cargo build $(OPERATOR) --bin flotilla-operator --bin flotilla-e2e --bin flotilla-recorder
	$(if $(FAULTS),cargo build $(OPERATOR) --features flotilla-operator/failpoints --bin flotilla-operator-faults)

e2e-images: $(if $(BINARIES),,e2e-programs)
	@$(MAKE) --no-print-directory images TAG=$(E2E_TAG) BINARIES=$(or $(BINARIES),$(BIN)) SBOM=
	@rm -rf $(CONTEXT) && mkdir -p $(CONTEXT)/sbom
	@for program in flotilla-workload flotilla-recorder; do \
	  strip --strip-debug -o $(CONTEXT)/$$program $(or $(BINARIES),$(BIN))/$$program; \
	done
	$(DOCKER) build -q --build-arg BASE=$(IMAGE_BASE) -t localhost/flotilla-tests:$(E2E_TAG) \
	  -f tests/kubernetes/Dockerfile $(CONTEXT)
	$(if $(FAULTS),strip --strip-debug -o $(CONTEXT)/flotilla-operator $(or $(BINARIES),$(BIN))/flotilla-operator-faults)
	$(if $(FAULTS),$(DOCKER) build -q --build-arg BASE=$(IMAGE_BASE) --target operator-prebuilt \
	  -t localhost/flotilla-operator-faults:$(E2E_TAG) -f Dockerfile $(CONTEXT))
	@rm -rf $(CONTEXT)
	$(DOCKER) tag localhost/flotilla-server:$(E2E_TAG) localhost/flotilla-server:$(E2E_TAG)-next

# SCENARIOS="lost volume" runs those whose names contain one of the words.
E2E = E2E_TAG=$(E2E_TAG) E2E_FAULTS=$(FAULTS) E2E_BINARIES=$(or $(BINARIES),$(BIN)) E2E_BUILD=$(if $(BINARIES),,1) \
  tests/kubernetes/run $(SCENARIOS)
e2e: tools
	$(E2E)

e2e-all: tools
	$(E2E) --all

# helm, promtool, prometheus and what checks the chart: those of the machine, else built or unpacked below
# $(TOOLS), where nothing starts a service. `charts` says what it could not check for want of one, and fails with
# CI=true.
HELM_VERSION := v4.3.1
# Tests of the templates; the table of values in the chart's README; objects against the schemas of Kubernetes,
# which it carries along.
HELM_UNITTEST := github.com/helm-unittest/helm-unittest@v1.1.2
HELM_DOCS := github.com/norwoodj/helm-docs/cmd/helm-docs@v1.14.2
KUBECTL_VALIDATE := sigs.k8s.io/kubectl-validate@v0.0.4
GO_INSTALL := GOBIN=$(TOOLS)/bin CGO_ENABLED=0 go install
export PATH := $(PATH):$(TOOLS)/bin:$(TOOLS)/prometheus/usr/bin
CHART := helm/flotilla
RENDER := helm template flotilla $(CHART) --namespace flotilla-system --skip-tests --kube-version 1.34
# The newest schemas that it carries. It has none of the operator of Prometheus, whose objects are left out.
VALIDATE := kubectl-validate --version 1.30 --local-crds $(CHART)/files
README := helm-docs --chart-search-root helm --sort-values-order file --log-level warning
# Which release made it is of no use in a plain manifest.
PLAIN := sed -e '/^\# Source: /d' -e '/helm.sh\/chart: /d' -e '/app.kubernetes.io\/managed-by: Helm/d'

# $(call GO_TOOL,COMMAND,VERSION,HOW): one of the machine is taken as it is, ours is made anew where another was pinned.
define GO_TOOL
	@at=$$(command -v $(1) || true); pin=$(TOOLS)/pins/$(1)@$(2); \
	if [ -z "$$at" ] || { [ "$$at" = $(TOOLS)/bin/$(1) ] && [ ! -e "$$pin" ]; }; then \
	  if ! command -v go >/dev/null; then \
	    echo "$(1) $(2) is not there, and neither is Go to build it (Debian's package golang-go, or another)"; \
	  elif $(3); then $(MAKE) --no-print-directory "$$pin"; \
	  else echo "$(1) $(2) could not be built"; fi; \
	fi
endef
version = $(lastword $(subst @, ,$(1)))
# It replaces one of its modules, which `go install` refuses of all but the module it is called in.
BUILD_UNITTEST = there=$$(go mod download -json $(HELM_UNITTEST) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p') \
  && (cd "$$there" && CGO_ENABLED=0 go build -mod=readonly -o $(TOOLS)/bin/helm-unittest ./cmd/helm-unittest)

.PHONY: tools
tools:
	$(call GO_TOOL,helm,$(HELM_VERSION),$(GO_INSTALL) helm.sh/helm/v4/cmd/helm@$(HELM_VERSION))
	$(call GO_TOOL,helm-docs,$(call version,$(HELM_DOCS)),$(GO_INSTALL) $(HELM_DOCS))
	$(call GO_TOOL,kubectl-validate,$(call version,$(KUBECTL_VALIDATE)),$(GO_INSTALL) $(KUBECTL_VALIDATE))
	$(call GO_TOOL,helm-unittest,$(call version,$(HELM_UNITTEST)),$(BUILD_UNITTEST))
	@command -v promtool >/dev/null || ! command -v apt-get >/dev/null \
	  || { mkdir -p $(TOOLS)/prometheus && cd $(TOOLS)/prometheus && rm -f *.deb \
	       && apt-get download -qq prometheus >/dev/null && dpkg -x prometheus_*.deb . && rm *.deb; } \
	  || echo "prometheus could not be downloaded"

manifests: setup tools
	cargo build $(OPERATOR) --bin flotilla-operator
	$(BIN)/flotilla-operator crd > $(CHART)/files/crd.yaml
	$(BIN)/flotilla-operator rbac > $(CHART)/files/rbac.yaml
	$(BIN)/flotilla-operator admission > $(CHART)/files/admission.yaml
	@$(MAKE) --no-print-directory manifests-of-chart OUT=deploy/manifests
	$(README)

# What follows from the chart alone.
.PHONY: manifests-of-chart
manifests-of-chart:
	@mkdir -p $(OUT)/monitoring
	@$(RENDER) --show-only templates/crd.yaml --set crds.keep=false | $(PLAIN) > $(OUT)/crd.yaml
	@# Its own namespace is no place for clusters, and the samples name none.
	@$(RENDER) --set crds.enabled=false --set 'operator.namespaces={default}' | $(PLAIN) > $(OUT)/operator.yaml
	@$(RENDER) --show-only templates/service-monitor.yaml --show-only templates/prometheus-rule.yaml \
	  --set metrics.serviceMonitor.enabled=true --set metrics.rules.enabled=true \
	  | $(PLAIN) > $(OUT)/monitoring/prometheus.yaml

charts: charts-text charts-helm charts-rules charts-bake
.PHONY: charts-text charts-helm charts-rules charts-bake

charts-text: setup
	python3 deploy/check.py

charts-helm: tools
	@if ! command -v helm >/dev/null; then echo "SKIPPED: the chart, for want of helm"; [ "$${CI:-}" != true ]; exit; fi; \
	made=$$(mktemp -d); trap 'rm -rf $$made' EXIT; \
	for values in deploy/kind/values.yaml $(CHART)/ci/*.yaml $(CHART)/values.yaml; do \
	  echo "chart with $$values"; \
	  helm lint --quiet --strict $(CHART) --values $$values; \
	  helm template flotilla $(CHART) --values $$values --kube-version 1.34 \
	    --api-versions flotilla.dev/v1alpha1/KvCluster >/dev/null; \
	  helm template flotilla $(CHART) --values $$values --kube-version 1.34 \
	    --api-versions flotilla.dev/v1alpha1/KvCluster --set metrics.serviceMonitor.enabled=false \
	    --set metrics.rules.enabled=false > $$made/$$(basename $$values); \
	done; \
	if ! command -v kubectl-validate >/dev/null; then \
	  echo "SKIPPED: objects against the schemas of Kubernetes, for want of kubectl-validate"; [ "$${CI:-}" != true ]; \
	else \
	  $(VALIDATE) $$made/*.yaml $(filter-out %/client-job.yaml,$(wildcard deploy/samples/*.yaml)) deploy/manifests/*.yaml \
	    > $$made/log 2>&1 || { sed 's/\x1b\[[0-9;]*m//g' $$made/log | grep -v OK; exit 1; }; \
	fi; \
	if ! command -v helm-unittest >/dev/null; then \
	  echo "SKIPPED: tests of the templates, for want of helm-unittest"; [ "$${CI:-}" != true ]; \
	else \
	  helm-unittest $(CHART) > $$made/log 2>&1 || { cat $$made/log; exit 1; }; \
	  grep '^Tests:' $$made/log | sed 's/^Tests: */tests of the templates: /'; \
	fi; \
	if ! command -v helm-docs >/dev/null; then \
	  echo "SKIPPED: the README of the chart, for want of helm-docs"; [ "$${CI:-}" != true ]; \
	elif ! $(README) --dry-run | diff $(CHART)/README.md - >/dev/null; then \
	  echo "$(CHART)/README.md is not current: run 'make manifests'"; exit 1; \
	fi; \
	if helm template flotilla $(CHART) --set operator.replica=2 >/dev/null 2>&1; then \
	  echo "the schema lets a misspelt value through"; exit 1; \
	fi; \
	now=$$made/now; mkdir $$now; \
	helm package --destination $$now $(CHART) >/dev/null; size=$$(stat -c %s $$now/*.tgz); rm $$now/*.tgz; \
	if [ $$size -gt 350000 ]; then \
	  echo "the chart has $$size bytes: with its manifest it may outgrow the Secret that Helm keeps it in"; exit 1; \
	fi; \
	$(MAKE) --no-print-directory manifests-of-chart OUT=$$now; \
	diff -r --exclude namespace.yaml deploy/manifests $$now \
	  || { echo "deploy/manifests is not current: run 'make manifests'"; exit 1; }

# The rules of the chart are its object's without what is around them, and have tests of their own where they are others.
charts-rules: tools
	@if ! command -v promtool >/dev/null; then echo "SKIPPED: the alert rules, for want of promtool"; [ "$${CI:-}" != true ]; exit; fi; \
	mkdir -p $(TOOLS); made=$$(mktemp -d); trap 'rm -rf $$made' EXIT; \
	cp $(CHART)/files/alerts/tests/of-chart/*.yaml $$made; tests="$$(ls $(CHART)/files/alerts/tests/*.yaml)"; \
	if command -v helm >/dev/null; then \
	  helm template flotilla $(CHART) --namespace ops --set metrics.rules.enabled=true \
	    --show-only templates/prometheus-rule.yaml | sed -n '/^spec:/,$$p' | sed -e 1d -e 's/^  //' > $$made/rules.yaml; \
	  tests="$$tests $$(ls $$made/*.yaml | grep -v /rules.yaml)"; \
	else echo "SKIPPED: the alert rules of the chart, for want of helm"; [ "$${CI:-}" != true ]; fi; \
	python3 deploy/check.py --queries > $$made/queries.rules; \
	promtool check rules --lint=all --lint-fatal $(CHART)/files/alerts/*.yaml $$made/queries.rules \
	  $$(ls $$made/rules.yaml 2>/dev/null) >$(TOOLS)/rules.log 2>&1 || { cat $(TOOLS)/rules.log; exit 1; }; \
	promtool test rules $$tests >$(TOOLS)/rules.log 2>&1 || { cat $(TOOLS)/rules.log; exit 1; }; \
	echo "alert rules: $$(grep -c SUCCESS $(TOOLS)/rules.log) files of tests pass;" \
	  "$$(grep -c record: $$made/queries.rules) queries of dashboards are read"

# Also with CI=true: a plug-in of Docker is no package everywhere, and operator/tests/deployment.rs compares the file
# with the Dockerfile.
charts-bake:
	@if ! $(DOCKER) buildx version >/dev/null 2>&1; then echo "SKIPPED: docker-bake.hcl, for want of docker buildx"; exit; fi; \
	$(DOCKER) buildx bake --print >/dev/null 2>&1 || { $(DOCKER) buildx bake --print; exit 1; }; \
	echo "docker-bake.hcl is read"

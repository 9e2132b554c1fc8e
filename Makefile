# SPDX-License-Identifier: Apache-2.0
# `make` lists the targets. Everything made here goes to .venv, target, .cache and data, but what
# the tests build from Go modules: that is kept in ~/.cache/antiphon-ci (tests/deps/go.sh).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := $(CURDIR)/.cache/tools
DENY_VERSION := 0.20.2
FUZZ_VERSION := 0.13.2
FUZZ_SECONDS ?=
PYTEST := $(BIN)/python -m pytest
PYTEST_ARGS ?=
CHAOS_ARGS ?=

export PATH := $(TOOLS)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# What runs once more with every stream torn and delayed; pytest's --proxy takes any of tests/wire.
TORN := rfc6120_streams rfc6120_bind rfc6121_roster xep_0198 xep_0280
TORN_BUT := not restricted and not well_formed and not delivery_table

# What the compiled library is made of. A change to Python files needs no build.
SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find rust -path rust/fuzz -prune -o \
	-type f \( -name '*.rs' -o -name '*.sql' -o -name '*.zdict' -o -name 'Cargo.toml' \) -print) \
	$(wildcard python/antiphon/storage/cassandra/*.cql)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  \1\t\2/' | \
		expand -t 18

# --- run ---------------------------------------------------------------------------------------

.PHONY: run
run: $(VENV)/.built ## build and start a node for the domain localhost, data under data/
	@exec $(BIN)/antiphon serve

.PHONY: cassandra
cassandra: $(VENV)/.built $(VENV)/.tests .cache/.deps ## run a Cassandra 5.0 on 127.0.0.1:9042 until Ctrl-C, data under data/cassandra
	@PYTHONPATH=tests exec $(BIN)/python -m support.cassandra start --port 9042 --folder data/cassandra

.PHONY: build
build: $(VENV)/.built ## create .venv and build everything into it

$(VENV)/.tools:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is missing: install CPython 3.11 or newer, or name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1): CPython 3.11 or newer is needed; name one with PYTHON=..." >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "make: cargo is missing: install a Rust toolchain, 1.90 or newer" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "make: cc is missing: install a C compiler" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "make: $(PYTHON) cannot make a virtual environment: install its venv module" >&2; exit 1; }
	@touch $@

$(VENV)/.runtime: python/requirements.txt | $(VENV)/.tools
	@echo "make: installing Python packages"
	@$(BIN)/python -m pip install --quiet -r $<
	@touch $@

$(VENV)/.built: $(SOURCES) $(VENV)/.runtime
	@echo "make: building (a few minutes the first time)"
	@PIP_QUIET=1 VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --quiet --profile release
	@touch $@

# --- test --------------------------------------------------------------------------------------

.PHONY: test
test: deps lint test-rust test-unit test-wire test-durability test-fuzz test-cassandra test-interop test-chart test-cluster-short ## everything: lint, unit, wire, kills, Cassandra, foreign clients, Helm chart, three nodes

.PHONY: lint
lint: $(VENV)/.built $(VENV)/.tests $(TOOLS)/bin/cargo-deny ## formats, lints, types, import rules, licences, stub parity
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	cargo deny --log-level error check --hide-inclusion-graph bans licenses sources
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml
	$(BIN)/python -m mypy.stubtest antiphon._core --mypy-config-file pyproject.toml --allowlist tests/repo/stubtest.txt --ignore-disjoint-bases
	$(PYTEST) -q tests/repo $(PYTEST_ARGS)

.PHONY: test-rust
test-rust: ## the pure crates and the node, without Python
	cargo test --workspace --exclude antiphon-ext --quiet

.PHONY: test-unit
test-unit: $(VENV)/.built $(VENV)/.tests ## Python's unit tests and the comparison of our XML reader with expat
	cargo build --quiet --release -p antiphon-xmpp --examples
	$(PYTEST) -q tests/unit $(wildcard tests/differential) $(PYTEST_ARGS)

.PHONY: test-wire
test-wire: $(VENV)/.built $(VENV)/.tests ## the protocol as a client sees it, one file for each XEP
	$(PYTEST) -q --reruns 2 tests/wire $(PYTEST_ARGS)
	$(PYTEST) -q --reruns 2 --proxy 7 $(TORN:%=tests/wire/%.py) -k "$(TORN_BUT)" $(PYTEST_ARGS)

.PHONY: test-durability
test-durability: $(VENV)/.built $(VENV)/.tests ## what was acknowledged is kept, once: kills, power cuts, catching up
	$(PYTEST) -q tests/durability --ignore tests/durability/test_outage.py $(PYTEST_ARGS)

.PHONY: simulate
simulate: ## SEEDS (5000) histories of planner, map, fencing and registry on a virtual clock, from seed FIRST on; prints the seeds that fail
	cargo run --release --quiet -p antiphon-cluster --features simulation --example simulate -- \
		--seeds $(or $(SEEDS),5000) --seed $(or $(FIRST),0)

.PHONY: chaos
chaos: simulate $(VENV)/.built $(VENV)/.tests .cache/.deps ## a simulation, kills, power cuts, and a cluster's invariants 50 times each (CHAOS_REPEAT); hours; CHAOS_ARGS="--store cassandra"
	@PYTHONPATH=tests $(BIN)/python -m durability.chaos $(CHAOS_ARGS)
	@PYTHONPATH=tests $(BIN)/python -m cluster.chaos

.PHONY: test-cluster
test-cluster: $(VENV)/.built $(VENV)/.tests .cache/.deps ## three nodes, etcd, Cassandra: kills, cuts, freezes, restarts, each a few times; needs root
	$(PYTEST) -q tests/cluster $(PYTEST_ARGS)

# Every invariant, tried twice or so. Only what did not start or settle is run again.
CLUSTER_SHORT = checker writes_checker one_server commands join k1_kill k2_bind k3_presence \
	k4_stall k5_ids e1_etcd_down p_partitions r1_rolling metrics refused forged deduplicated slow_node \
	unsaved full_disk zones without_etcd

.PHONY: test-cluster-short
test-cluster-short: $(VENV)/.built $(VENV)/.tests .cache/.deps ## a part of test-cluster: one server on three nodes, a join, a drain, kills, a rolling restart
	$(PYTEST) -q --reruns 2 --only-rerun 'Unsettled|ServerFailed|CassandraFailed' \
		$(CLUSTER_SHORT:%=tests/cluster/test_%.py) $(PYTEST_ARGS)

.PHONY: test-prosody
test-prosody: $(VENV)/.tests .cache/.deps ## the wire tests of the RFCs and XEPs against Debian's Prosody: a wrong expectation shows
	$(PYTEST) -q --server prosody $(wildcard tests/wire/rfc*.py) $(wildcard tests/wire/xep_*.py) $(PYTEST_ARGS)

.PHONY: test-interop
test-interop: $(VENV)/.built $(VENV)/.tests .cache/.deps ## foreign clients and suites: slixmpp, xmpp.js, stanza, Smack
	$(PYTEST) -q tests/interop $(PYTEST_ARGS)

.PHONY: test-cassandra
test-cassandra: $(VENV)/.built $(VENV)/.tests .cache/.deps ## what needs a real Cassandra, 5.0 and 4.1
	PYTHONPATH=tests $(BIN)/python -m support.cassandra exec --volatile -- \
		cargo test --quiet -p antiphon-store --test cassandra
	$(PYTEST) -q tests/cassandra $(PYTEST_ARGS)
	$(PYTEST) -q tests/durability/test_kill.py tests/durability/test_outage.py --store cassandra $(PYTEST_ARGS)

.PHONY: test-chart
test-chart: $(VENV)/.built $(VENV)/.tests .cache/.deps ## the Helm chart by Kubernetes' schemas, bad values, the image's file tree
	$(PYTEST) -q tests/k8s --ignore tests/k8s/test_apiserver.py $(PYTEST_ARGS)

.PHONY: test-k8s
test-k8s: $(VENV)/.built $(VENV)/.tests .cache/.deps ## a real API server takes all that the chart makes (builds one from its Go module)
	$(PYTEST) -q tests/k8s/test_apiserver.py $(PYTEST_ARGS)

.PHONY: test-fuzz
test-fuzz: $(TOOLS)/bin/cargo-fuzz ## every fuzz target for half a minute (FUZZ_SECONDS), two at a time
	@rust/fuzz/run.sh $(or $(FUZZ_SECONDS),30)

.PHONY: fuzz
fuzz: $(TOOLS)/bin/cargo-fuzz ## the same for a quarter of an hour each
	@rust/fuzz/run.sh $(or $(FUZZ_SECONDS),900)

.PHONY: bench
bench: $(VENV)/.built $(VENV)/.tests .cache/.deps ## every target beside the rivals, then one node against three, 50 minutes; to benchmarks/results; QUICK=1: ten
	@$(BIN)/python benchmarks/run.py; status=$$?; $(BIN)/python benchmarks/cluster.py && exit $$status

.PHONY: bench-cluster
bench-cluster: $(VENV)/.built $(VENV)/.tests .cache/.deps ## one node against three nodes, etcd and Cassandra; results as of bench
	$(BIN)/python benchmarks/cluster.py

.PHONY: bench-cassandra
bench-cassandra: $(VENV)/.built $(VENV)/.tests .cache/.deps ## archive, inbox and search in Cassandra; results as of bench
	$(BIN)/python benchmarks/run.py cassandra

.PHONY: storm
storm: $(VENV)/.built $(VENV)/.tests ## live sessions beside 5,000 that log in, Prosody too; results as of bench
	$(BIN)/python benchmarks/storm.py

.PHONY: micro
micro: $(VENV)/.built $(VENV)/.tests ## what the parts cost, each alone, in one table
	@$(BIN)/python benchmarks/micro/run.py

.PHONY: soak
soak: $(VENV)/.built $(VENV)/.tests ## 10,000 idle and 200 busy sessions for SOAK_MINUTES (20); results as of bench
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null || $(BIN)/python -m pip install --quiet -r benchmarks/requirements.txt
	@$(BIN)/python benchmarks/soak.py

.PHONY: deps
deps: $(VENV)/.built $(VENV)/.tests .cache/.deps $(TOOLS)/bin/cargo-deny $(TOOLS)/bin/cargo-fuzz ## bring what only the tests need (Debian as root; elsewhere says what is missing)

$(VENV)/.tests: tests/requirements.txt $(VENV)/.runtime
	@echo "make: installing what the tests need"
	@$(BIN)/python -m pip install --quiet -r $<
	@touch $@

.cache/.deps: $(wildcard tests/deps/* tests/deps/cassandra/* tests/deps/go/*/*) tests/support/cassandra/install.py $(wildcard tests/interop/*/package-lock.json)
	@mkdir -p .cache
	@tests/deps/install.sh
	@PYTHON=$(PYTHON) tests/deps/sslyze.sh
	@touch $@

# Without optimisation: it runs once a build, and the compilation is what costs.
define install-tool
	@echo "make: building $(1) $(2)"
	@cargo install --quiet --locked --root $(TOOLS) --target-dir .cache/tools-target \
		--config profile.release.opt-level=0 --config profile.release.lto=false \
		--config profile.release.codegen-units=16 --version $(2) $(1)
	@rm -rf .cache/tools-target
endef

$(TOOLS)/bin/cargo-deny:
	$(call install-tool,cargo-deny,$(DENY_VERSION))

$(TOOLS)/bin/cargo-fuzz:
	$(call install-tool,cargo-fuzz,$(FUZZ_VERSION))

# --- the rest ----------------------------------------------------------------------------------

.PHONY: docs
docs: $(VENV)/.built ## write the generated parts of README.md and docs/reference
	$(BIN)/python -m antiphon.cli.docs .
	$(BIN)/python -m antiphon.xep._docs
	$(BIN)/python k8s/helm/schema.py

.PHONY: proto
proto: $(VENV)/.tests ## write python/antiphon/cluster/_gen from proto/ (Rust makes its own at each build)
	$(BIN)/python -m grpc_tools.protoc --proto_path=antiphon/cluster/_gen=proto/antiphon/v1 \
		--proto_path=antiphon/cluster/_gen=proto/etcd --python_out=python --pyi_out=python \
		antiphon/cluster/_gen/control.proto antiphon/cluster/_gen/etcd.proto

.PHONY: format
format: $(VENV)/.tests ## format Rust and Python
	cargo fmt --all
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

.PHONY: clean
clean: ## remove what was built; keeps data/ and .cache/
	rm -rf $(VENV) target rust/fuzz/target python/antiphon/_core*.so
	find python tests -name __pycache__ -type d -prune -exec rm -rf {} +

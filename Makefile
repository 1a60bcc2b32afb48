# Everything here is idempotent.  `make demo` and `make test` work on a fresh Debian 12 machine, as root.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python

# What the tunnel itself and its demonstration need; the rest is for tests, their peers and their judges.
# The compiler and the headers are for the native data path (rsock_nf/native).
RUN_PACKAGES := python3-venv nftables iproute2 ethtool gcc libc6-dev python3-dev libssl-dev
TEST_PACKAGES := $(RUN_PACKAGES) iptables conntrack tcpdump tshark socat curl \
	libpcap0.8 libpcap-dev kcptun shadowsocks-libev wireguard-go wireguard-tools openvpn openssl iperf3 dnsperf dnsmasq-base bind9-dnsutils nginx-light \
	shellcheck procps iputils-ping vagrant systemd mandoc zsh fish lintian dpkg-dev adduser

# A game that is played through the tunnel.
TEST_PACKAGES += teeworlds-server

# It evaluates what the dashboard asks for.
TEST_PACKAGES += prometheus

# libFuzzer, which looks at the coverage of the C files.
FUZZ_PACKAGES := clang libclang-rt-dev

# The Debian package is made with these.
PACKAGE_PACKAGES := $(RUN_PACKAGES) python3 dpkg-dev binutils xz-utils

# Every shell script, found by its first line.
SCRIPTS = $(shell grep -rsIlE --exclude-dir=out '^\#!/(usr/bin/env bash|bin/(ba)?sh)' .ci bench contrib release tests vagrant)

FUZZ_SECONDS ?= 60
SOAK ?= 30
# Most tests wait for something, so more of them run at a time than there are cores.
WORKERS ?= $(shell expr $$(nproc) + 1)
PYTEST = $(PY) -m pytest
# Tests start hundreds of interpreters.  One that must not keep what it has compiled compiles everything each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv demo test quick asan check lint types imports scripts format bench fuzz recipes faults load attacks vagrant-test wheel man deb pyz clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 23

venv: $(VENV)/.native ## .venv/bin/rsock-nf, and what it needs to run

demo: $(VENV)/.native ## the main job: client, strict NAT router and server in namespaces, real traffic through the tunnel
	@$(PY) -m rsock_nf demo

test: $(VENV)/.develop ## all tests (as root: they make network namespaces)
	@$(PYTEST) --numprocesses $(WORKERS) --durations 20 $(PYTEST_ARGS)

quick: $(VENV)/.develop ## the tests that need no root and no namespaces, fewer cases of each: within a minute
	@$(PYTEST) --numprocesses $$(nproc) --quick $(PYTEST_ARGS)

asan: $(VENV)/.develop ## the native data path under AddressSanitizer and UBSan: its own tests and those in namespaces (as root)
	@.ci/sanitized --numprocesses $(WORKERS) $(PYTEST_ARGS) tests/native tests/netns

check: lint types imports scripts ## all of the static checks

lint: $(VENV)/.develop ## ruff: rules and format
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

types: $(VENV)/.develop ## mypy --strict, of the packages (as Linux, FreeBSD and macOS have them) and of tests and benchmark
	@$(VENV)/bin/mypy
	@$(VENV)/bin/mypy --platform freebsd
	@$(VENV)/bin/mypy --platform darwin
	@$(VENV)/bin/mypy tests bench

imports: $(VENV)/.develop ## who may import whom
	@$(VENV)/bin/lint-imports

scripts: $(VENV)/.develop ## shellcheck
	@shellcheck -x -- $(SCRIPTS)

format: $(VENV)/.develop ## let ruff format and mend what it can
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

.PHONY: docs
docs: $(VENV)/.develop ## the site, in site/: open site/index.html
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

bench: $(VENV)/.bench ## tunnels, direct UDP and a C relay, side by side: an hour; writes bench/out (docs/performance.md says more)
	@$(PY) -m bench

fuzz: $(VENV)/.fuzz ## parsers, insiders, files, whole tunnels, then the C files, coverage-guided (FUZZ_SECONDS=60); then the properties
	@$(PY) -m tests.fuzz.run --seconds $(FUZZ_SECONDS)
	@$(PY) -m tests.native.fuzz.run --seconds $(FUZZ_SECONDS)
	@$(PY) -m pytest --hypothesis-profile=fuzz -o timeout=3600 tests/property

recipes: $(VENV)/.develop ## the table of VPN recipes in docs/recipes.md, measured (as root)
	@$(PY) -m tests.e2e.vpn_table

faults: $(VENV)/.develop ## the tables of docs/reliability.md: 71 faults, then half an hour of them (as root; SOAK=30)
	@$(PY) -m tests.faults --soak $(SOAK)

load: $(VENV)/.develop ## a million datagrams through each kind of tunnel, none lost: a table of docs/reliability.md (as root)
	@$(PY) -m tests.faults.amounts

attacks: $(VENV)/.develop ## the tables of docs/security-tests.md: attacks on a running tunnel (as root)
	@$(PY) -m tests.attacks

vagrant-test: $(VENV)/.native ## the tunnel between two virtual machines: Vagrant, or plain QEMU (VM_ARGS='--suite trixie')
	@vagrant/test.sh $(VM_ARGS)

wheel: $(VENV)/.develop ## dist/*.whl
	@$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

man: $(VENV)/.native ## dist/share: man pages, and completions for bash, zsh and fish
	@PYTHONPATH=.:firewall $(PY) release/pages.py dist/share

deb: $(VENV)/.package ## dist/*.deb, for this host's release of Debian
	@release/deb $(PY) dist

pyz: $(VENV)/.package ## dist/rsock-nf.pyz: all in one file, for this version of Python and this kind of host
	@release/pyz $(PY) dist

clean: ## everything that make made in this directory
	rm -rf rsock_nf/native/*.so $(VENV) build dist site bench/out tests/out .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps.  Each environment contains the one before it, so that `make test` after `make demo` adds and removes nothing.
$(VENV)/.run: pyproject.toml hatch_build.py .ci/venv .ci/apt-install
	@.ci/apt-install $(RUN_PACKAGES)
	@.ci/venv $(VENV)
	@touch $@

# The native data path.  Where it cannot be compiled, rsock-nf works without.
$(VENV)/.native: $(VENV)/.run $(wildcard rsock_nf/native/c/*) rsock_nf/native/build.py
	@$(PY) -m rsock_nf.native.build >/dev/null || true
	@touch $@

$(VENV)/.develop: $(VENV)/.native
	@.ci/apt-install $(TEST_PACKAGES)
	@.ci/venv $(VENV) test check docs
	@touch $@

$(VENV)/.fuzz: $(VENV)/.develop
	@.ci/apt-install $(FUZZ_PACKAGES)
	@touch $@

$(VENV)/.package: $(VENV)/.native
	@.ci/apt-install $(PACKAGE_PACKAGES)
	@.ci/venv $(VENV) package
	@touch $@

$(VENV)/.bench: $(VENV)/.develop
	@.ci/venv $(VENV) test check docs bench
	@touch $@

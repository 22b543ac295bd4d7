# SPDX-License-Identifier: MIT
# `make run` and `make test` set everything up; CI calls nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
BUILD_PACKAGES := clang llvm libbpf-dev gcc libc6-dev python3-dev python3-venv
DIST_PACKAGES := linux-libc-dev-arm64-cross
TEST_PACKAGES := $(DIST_PACKAGES) qemu-system-arm gcc-aarch64-linux-gnu libc6-dev-arm64-cross iptables nftables iproute2 qemu-system-x86 busybox-static cpio kmod file bpftool libclang-rt-dev tcpdump chromium logrotate systemd zsh fish man-db mandoc groff dnsmasq-base ipset
ARGS ?=

help: ## show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 16

run: build ## audit this host's outbound connections (ARGS="..." for pyegress run)
	$(SUDO) $(BIN)/pyegress run $(ARGS)

build: $(VENV)/built ## packages, virtual environment, native module, BPF object

test: $(VENV)/test-packages $(VENV)/dev $(VENV)/packed ## all tests, the guest kernels included (ARGS="..." for pytest)
	$(SUDO) env CI="$(CI)" $(BIN)/python -m pytest $(ARGS)

check: $(VENV)/dev ## lint, format and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

fmt: $(VENV)/dev ## format the Python code
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(VENV)/test-packages $(VENV)/dev ## all benchmarks (ARGS=--quick for the short ones)
	$(SUDO) $(BIN)/python -m bench $(ARGS)

bench-peers: $(VENV)/test-packages $(VENV)/dev ## other tools beside pyegress in a guest (ARGS="--record", "--only PART")
	$(SUDO) $(BIN)/python -m bench.peers $(ARGS)

bench-native: $(VENV)/dev ## decoder, lines, filters and attribution by themselves (ARGS="..." for pytest-benchmark)
	$(BIN)/python -m pytest -p pytest_benchmark.plugin bench/native $(ARGS)

plots: $(VENV)/dev ## docs/img from bench/figures.json and bench/peers.json
	$(BIN)/python -m bench.plots

soak: $(VENV)/test-packages $(VENV)/dev ## an hour of 10,000 connections a second (ARGS="--seconds 180 --every 20"; --guest 6.12)
	$(SUDO) $(BIN)/python -m tests.soak $(ARGS)

docs: build ## write docs/plugins.txt and docs/pyegress.toml anew
	$(BIN)/pyegress list > docs/plugins.txt && $(BIN)/pyegress list --toml > docs/pyegress.toml

dist: $(VENV)/dist-packages $(VENV)/dev ## source distribution and manylinux wheel in dist/
	$(BIN)/python dist.py

wheelhouse: $(VENV)/packed ## both, and the wheels that they need, for tests

clean: ## remove everything that was built
	rm -rf $(VENV) build dist prebuilt *.egg-info pyegress/_native/*.so pyegress/_native/*.bpf.o pyegress/_native/_egress.c tests/traffic tests/short tests/volley

$(VENV)/build-packages:
	@dpkg -s $(BUILD_PACKAGES) >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends $(BUILD_PACKAGES); }
	@$(PYTHON) -m venv $(VENV) && touch $@

$(VENV)/test-packages: $(VENV)/build-packages
	@dpkg -s $(TEST_PACKAGES) >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends $(TEST_PACKAGES); }
	@touch $@

$(VENV)/dist-packages: $(VENV)/build-packages
	@dpkg -s $(DIST_PACKAGES) >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends $(DIST_PACKAGES); }
	@touch $@

$(VENV)/built: $(VENV)/build-packages pyproject.toml build.py $(wildcard bpf/*) $(wildcard pyegress/_native/[a-z]*.[ch])
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/dev: $(VENV)/built
	$(BIN)/pip install -q -e '.[dev]'
	@touch $@

# What is given to others, and the wheels that it needs, for where there is no network.
$(VENV)/packed: $(VENV)/dist-packages $(VENV)/dev dist.py MANIFEST.in README.md $(shell find pyegress -name '*.py')
	$(BIN)/python dist.py $(VENV)/wheelhouse
	$(BIN)/pip download -q --only-binary :all: --dest $(VENV)/wheelhouse $(VENV)/wheelhouse/pyegress-*.whl
	@touch $@

.PHONY: help run build test check fmt bench bench-peers bench-native plots soak docs dist wheelhouse clean

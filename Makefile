# SPDX-License-Identifier: MIT
# `make run` and `make test` set everything up; CI calls nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
BUILD_PACKAGES := clang llvm libbpf-dev gcc libc6-dev python3-dev python3-venv
TEST_PACKAGES := iptables iproute2 qemu-system-x86 busybox-static cpio kmod file bpftool libclang-rt-dev tcpdump
ARGS ?=

help: ## show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 16

run: build ## audit this host's outbound connections (ARGS="..." for pyegress run)
	$(SUDO) $(BIN)/pyegress run $(ARGS)

build: $(VENV)/built ## packages, virtual environment, native module, BPF object

test: $(VENV)/test-packages $(VENV)/dev ## all tests, the guest kernels included (ARGS="..." for pytest)
	$(SUDO) env CI="$(CI)" $(BIN)/python -m pytest $(ARGS)

check: $(VENV)/dev ## lint, format and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

fmt: $(VENV)/dev ## format the Python code
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(VENV)/test-packages $(VENV)/dev ## all benchmarks (ARGS=--quick for the short ones)
	$(SUDO) $(BIN)/python -m bench $(ARGS)

docs: build ## write docs/plugins.txt anew
	$(BIN)/pyegress list > docs/plugins.txt

dist: $(VENV)/dev ## source distribution and wheel in dist/
	$(BIN)/pip install -q build && $(BIN)/python -P -m build

clean: ## remove everything that was built
	rm -rf $(VENV) build dist *.egg-info pyegress/_native/lib pyegress/_native/*.so pyegress/_native/*.bpf.o pyegress/_native/_egress.c tests/traffic tests/short

$(VENV)/build-packages:
	@dpkg -s $(BUILD_PACKAGES) >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends $(BUILD_PACKAGES); }
	@$(PYTHON) -m venv $(VENV) && touch $@

$(VENV)/test-packages: $(VENV)/build-packages
	@dpkg -s $(TEST_PACKAGES) >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends $(TEST_PACKAGES); }
	@touch $@

$(VENV)/built: $(VENV)/build-packages pyproject.toml build.py $(wildcard bpf/*) $(wildcard pyegress/_native/[a-z]*.[ch])
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/dev: $(VENV)/built
	$(BIN)/pip install -q -e '.[dev]'
	@touch $@

.PHONY: help run build test check fmt bench docs dist clean

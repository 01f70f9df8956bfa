# Joblet's commands. `make demo` and `make test` set up what they need on a fresh Debian or Ubuntu machine (as root).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON := .venv/bin/python
CHECKED := libs services cli proto tests bench tools .ci
LOCAL_DIR ?= build/local
PORT ?= 50051
T ?=

.PHONY: help setup demo test up down lint format proto lock jobinit package bench bench-peers test-cgroup2 clean

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup:  ## apt packages that are missing, .venv from the lock file, commands in .venv/bin, jobinit
	@tools/setup

jobinit: setup  ## build/jobinit/jobinit, PID 1 of every job (setup does it)

demo: setup  ## a real job on a system of its own, followed live, then everything down again
	@tools/demo

test: setup  ## all tests; T="PATH -k NAME" for some of them
	@$(PYTHON) -m pytest $(T)

test-cgroup2: setup  ## the tests that need cgroup v2, inside guests: user-mode Linux, and QEMU for cores
	@tests/e2e/guest/run --timeout 1800
	@tests/e2e/guest/run --kernel qemu --timeout 1800

up: setup  ## a system that keeps running (PORT=50051, LOCAL_DIR=build/local)
	@.venv/bin/rnx local up --dir $(LOCAL_DIR) --port $(PORT) --detach
	@echo 'rnx is in .venv/bin:'
	@echo '  export PATH="$(CURDIR)/.venv/bin:$$PATH"'

down:  ## stops what `make up` started
	@.venv/bin/rnx local down --dir $(LOCAL_DIR)

lint: setup  ## ruff, ruff format, mypy --strict
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy $(CHECKED)

format: setup  ## what ruff can put right by itself
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

proto: setup  ## regenerates the stubs in proto/
	@$(PYTHON) proto/stubs.py

lock: setup  ## requirements/requirements.txt from requirements.in
	@tools/lock

package: setup  ## dist/*.pex: one per service and one for rnx
	@tools/pants package ::
	@ls -l dist/*.pex

BENCHMARKS := launch cli rpc footprint waiting logs neighbour
bench: setup  ## benchmarks, each beside a peer; bench-NAME for one of them (BENCHMARKS in this file)
	@for name in $(BENCHMARKS); do $(MAKE) "bench-$$name"; done

# Local sandboxes to measure beside.
bench-peers: setup
	@command -v bwrap runc >/dev/null || { apt-get update -q && apt-get install -qy --no-install-recommends bubblewrap runc; } >/dev/null

bench-%: bench-peers
	@PYTHONPATH=tests/e2e $(PYTHON) bench/$*.py

clean:  ## what the commands above made, but for .venv
	@if [ -e $(LOCAL_DIR)/run ]; then .venv/bin/rnx local down --dir $(LOCAL_DIR); fi
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .pants.d .pants.lock .pids
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# Two commands set everything up: `make demo` and `make test`. The rest is for those who work on modal_magic.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCHEDULES ?= 500000
FAULTS ?= 500
READY := $(VENV)/ready
VIEWS := modal_magic/labextension/package.json

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

.PHONY: demo test punctual patient beside lab emulator verify-modal verify-restore lint tools soak bench clean help

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

# torch first and by itself: what pip then finds satisfied it does not replace by another build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# pip builds the extension when it installs; this builds it again when its sources have changed since.
$(VIEWS): package.json yarn.lock labextension/build-widget.mjs $(shell find labextension/src labextension/style labextension/schema -type f) | $(READY)
	@[ -e $@ ] && [ -z "$$(find $^ -newer $@)" ] || { \
	PATH="$(CURDIR)/$(BIN):$$PATH" jlpm install --immutable && PATH="$(CURDIR)/$(BIN):$$PATH" jlpm build:prod; }
	@touch $@

demo: $(READY) ## run notebooks/01_digits_ddp.ipynb on 4 local ranks, in a real kernel
	$(BIN)/python notebooks/execute.py notebooks/01_digits_ddp.ipynb
	@echo
	@echo "The notebook ran on 4 ranks of this machine. To open it in JupyterLab: make lab"

lab: $(READY) ## open the notebook in JupyterLab
	$(BIN)/jupyter lab notebooks/01_digits_ddp.ipynb

test: ## all that CI runs
	$(MAKE) --no-print-directory --jobs=2 tools $(VIEWS)
	$(MAKE) --no-print-directory --jobs=2 punctual beside

punctual: $(READY) ## the tests that hold promises of time, most of which wait for real ranks
	$(BIN)/python -m pytest -m 'not patient'

patient: lint ## lint, and the tests that promise nothing of time
	PATH="$(CURDIR)/$(BIN):$$PATH" jlpm test
	$(BIN)/python -m pytest -m patient

# Where the one has failed the other goes on to its end. What is said here is shown when it is over.
beside: $(VIEWS)
	@said=$$(mktemp); nice -n 5 $(MAKE) --no-print-directory patient >$$said 2>&1; failed=$$?; \
	cat $$said; rm $$said; exit $$failed

emulator: $(READY) tools ## an emulator of Modal to rehearse against (root, Linux); it prints what to set, and ends with Ctrl-D
	@$(BIN)/python -m tests.modal_emulator

verify-modal: $(READY) ## with a token: what only Modal itself can confirm (starts containers, which cost); GPU=T4 for GPUs
	$(BIN)/python -m tests.verify_modal $(if $(GPU),--gpu $(GPU))

verify-restore: $(READY) tools ## with CRIU 4 or newer, as root: containers of the emulator that have the memory of one
	$(BIN)/python -m pytest tests/verify_restore.py

lint: $(READY) $(VIEWS) ## ruff and mypy, eslint and tsc
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" jlpm lint

# The tests on two network namespaces need `ip` and root, those of the views a Chromium; without root they are left out
# where these are missing, but never in CI.
tools:
	@command -v ip >/dev/null || test "$$(id -u)" != 0 || (apt-get update -qq && apt-get install -y -qq iproute2 >/dev/null)
	@command -v chromium >/dev/null || test "$$(id -u)" != 0 || (apt-get update -qq && apt-get install -y -qq chromium >/dev/null)

soak: $(READY) ## hours of what `make test` does for a minute: simulated sessions, each time other ones
	$(BIN)/python -m tests.simulation $$(date +%s)00000 --count $(SCHEDULES)
	$(BIN)/python -m tests.chaos $$(date +%s) --count $(FAULTS)

bench: $(READY) ## measure against the peers, and write docs/benchmarks.md
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[monarch]' || echo "Monarch cannot be installed here: it is left out"
	$(BIN)/python -m tests.bench

clean: ## remove what the above made
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis dist

# Two commands are enough: `make demo` and `make test`. Both need only Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# More than the two cores of CI: a slow test mostly waits for a process, a daemon or a browser.
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format up constraints deploy-files clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[deploy]' --group dev
	@touch $(READY)

demo: $(READY)  ## Postgres, a simulated vendor, the whole pipeline, a table of what is stored
	@$(BIN)/marketdata demo

up: $(READY)  ## Dagster's UI on http://127.0.0.1:3000 until Ctrl-C
	@$(BIN)/marketdata up

test: $(READY)  ## The test suite, without what is marked slow, with fewer examples of each property
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --hypothesis-profile quick -m "not slow"

test-all: $(READY)  ## The whole test suite, slow tests included
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(READY)  ## Linters, types, Dagster's own validation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/dg check defs
	$(BIN)/dagster definitions validate -w workspace.yaml

format: $(READY)  ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(READY)  ## Write constraints.txt anew from what is installed
	$(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' > constraints.txt

deploy-files: $(READY)  ## Write the generated files in deploy/ anew
	$(BIN)/python -m deploy

clean:  ## Remove the virtual environment and caches; data under .marketdata stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

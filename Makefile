# One environment, .venv, serves every target. It is made anew when pyproject.toml or constraints.txt change.
# `make help` lists the targets; PYTHON=... picks another interpreter (3.10 or newer).

SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := pyproject.toml constraints.txt
STAMP := $(VENV)/requirements-$(shell cat $(REQUIREMENTS) | cksum | cut -d ' ' -f 1)

# Two test processes, a thread each: more threads than cores make torch slower, not faster.
WORKERS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

# Where a MONAI Label server lives: it cannot share our environment.
LABEL_ENV ?= .venv-label

.PHONY: help install demo test lint types imports check format docs integration label-env clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "Python 3.10 or newer is needed; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,onnx,openvino]'
	@rm -f $(VENV)/requirements-*
	@touch $@

install: $(STAMP)  ## set up .venv with everything the targets need

demo: $(STAMP)  ## make a data set, plan, train some minutes, evaluate, predict; the result lies in demo/
	$(BIN)/unet-bundle demo

test: $(STAMP)  ## the unit tests, in parallel
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

integration:  ## the tests that run the real command lines and servers
	.ci/run-integration

label-env:  ## the environment of a MONAI Label server, in .venv-label or LABEL_ENV=folder
	$(PYTHON) scripts/label_environment.py $(LABEL_ENV)

lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP)  ## mypy, strict over src/
	$(BIN)/mypy

imports: $(STAMP)  ## import-linter: imports point one way
	$(BIN)/lint-imports

check: lint types imports  ## lint, types and imports

format: $(STAMP)  ## let ruff put the code in order
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(STAMP)  ## the documentation's pages, in build/docs
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs build/docs

clean:  ## remove what the targets made, .venv too
	rm -rf $(VENV) .venv-label demo runs build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

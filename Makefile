.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types all-checks

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install telme with its development tools

# Written last, so that an interrupted install is repeated and a complete one needs the network no more.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: setup ## the whole system on a made-up corpus, then the bundled model on an example, offline
	$(BIN)/telme demo
	$(BIN)/telme predict mini examples/office.json --format table

test: setup ## run the tests
	$(BIN)/pytest

lint: setup ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup ## check types, strictly
	$(BIN)/mypy

all-checks: lint types test ## everything a change must pass

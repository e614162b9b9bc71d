# `make demo` runs the whole chain, `make test` the whole suite; both set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES ?=

.PHONY: setup demo test lint bench clean

setup: $(STAMP)

# Rebuilt only when the dependency files change.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: export SOURCES := $(SOURCES)
demo: setup
	$(BIN)/python -m skelcore.demo

test: setup lint
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --cov=skelcore --cov=harvest --cov=pretrain --cov=adapt --cov-report=term

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

bench: setup
	for suite in benchmarks/*.py; do $(BIN)/python $$suite || exit 1; done

clean:
	rm -rf demo/ build/ *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage

# `make demo` runs the whole chain, `make test` the whole suite; both set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
STAMP := $(VENV)/.installed
MMPOSE := $(VENV)/.mmpose
SOURCES ?=

.PHONY: setup mmpose demo test lint bench clean

setup: $(STAMP)

# Rebuilt only when the dependency files change.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[dev]'
	touch $@

# The backend mmpose, without mmcv's compiled operators. What MMPose itself asks for cannot all be built, so it comes
# without its needs; those of its top-down models are named in pyproject.toml.
mmpose: $(MMPOSE)

$(MMPOSE): $(STAMP)
	$(PIP) -e '.[mmpose]'
	$(PIP) --no-deps mmengine mmcv-lite mmpose
	touch $@

demo: export SOURCES := $(SOURCES)
demo: setup
	$(BIN)/python -m skelcore.demo

test: mmpose lint
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --durations=25 --cov=skelcore --cov=harvest --cov=pretrain --cov=adapt --cov-report=term

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

bench: mmpose
	for suite in benchmarks/*.py; do $(BIN)/python $$suite || exit 1; done

clean:
	rm -rf demo/ build/ *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage

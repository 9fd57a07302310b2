# `make demo` and `make test` each work alone on a machine that has only Python 3.11 and make. `make help` lists the rest.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# the interpreter to build .venv with; empty means python3.11, else python3 if it is 3.11 or newer
PYTHON ?=
# two workers fill two cores, so each gets one thread; `make test PYTEST_FLAGS=` runs in one process
PYTEST_FLAGS ?= -n 2

ifndef IMPUTOME_DATA
ifneq ($(wildcard ../shared/data/.),)
export IMPUTOME_DATA := $(abspath ../shared/data)
endif
endif

# scripts in benchmarks/ that write tables into README.md and docs/ from stored results
TABLES := counts real limit limit_real single_genes scaling wide
# what `make bench` leaves out or runs otherwise: hours, an environment with the peers, or no script of its own
PEERS := $(addprefix benchmarks/,$(addsuffix .py,$(TABLES) comparison deep added_memory))

THREADS := $(or $(OMP_NUM_THREADS),2)
test: THREADS := $(or $(OMP_NUM_THREADS),$(if $(strip $(PYTEST_FLAGS)),1,2))
demo test test-real test-scvi test-faults fuzz bench bench-peers: export OMP_NUM_THREADS = $(THREADS)
export OMP_WAIT_POLICY ?= passive
export OPENBLAS_THREAD_TIMEOUT ?= 10

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-real test-scvi test-faults test-wheel fuzz dist check docs bench bench-peers bench-tables clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(VENV)/.base  ## impute a small real data set and show the result
	$(BIN)/imputome demo

test: $(VENV)/.dev  ## run the tests (minutes, no network)
	$(BIN)/pytest $(PYTEST_FLAGS)

test-real: $(VENV)/.dev  ## run the slow checks on real data
	$(BIN)/pytest -m real

test-scvi: $(VENV)/.scvi  ## install scvi-tools (1 GB) into .venv, and run the tests that need it
	$(BIN)/pytest -k scvi

test-faults: $(VENV)/.dev  ## kill runs, fill disks, race processes, feed 500 files that lie
	$(BIN)/pytest -m faults -n 2 tests/faults

test-wheel: dist  ## install the wheel into an empty environment of every Python found, and try it
	.ci/wheel

fuzz: $(VENV)/.dev  ## feed 5,000 files that lie (half an hour)
	FUZZ_INPUTS=5000 $(BIN)/pytest -m faults -n 2 tests/faults/test_fuzz.py

check: $(VENV)/.dev  ## ruff, mypy, and whether the tables in README and docs are those of their sources
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/method_table.py --check
	$(BIN)/python docs/findings.py --check
	@set -e; for script in $(TABLES); do $(BIN)/python benchmarks/$$script.py check; done

docs: $(VENV)/.docs  ## build the site into docs/_build/html (minutes, no network); a warning is an error
	$(BIN)/python -m sphinx -b html -q -j 2 -W --keep-going docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.dev  ## run every script in benchmarks/
	@set -e; for script in $(filter-out $(PEERS),$(sort $(wildcard benchmarks/*.py))); do echo "$$script"; $(BIN)/python "$$script"; done
	@set -e; for script in $(filter-out counts real,$(TABLES)); do $(BIN)/python benchmarks/$$script.py run; done

bench-peers: $(VENV)/.dev  ## every method beside its peers, on every data set (hours; continues where it stopped)
	$(BIN)/python benchmarks/counts.py run --make-peers
	$(BIN)/python benchmarks/real.py run --make-peers
	$(MAKE) bench-tables

bench-tables: $(VENV)/.dev  ## write the tables of those results into README.md and docs/
	@set -e; for script in $(TABLES); do $(BIN)/python benchmarks/$$script.py write; done

dist: $(VENV)/.dev  ## build the sdist and the wheel, and check what the package index will show
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:  ## remove .venv, caches and build products
	rm -rf $(VENV) build dist docs/_build docs/generated demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/.python
	@echo "installing imputome into $(VENV)"
	@$(PIP) --editable '.[report]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.python
	@echo "installing imputome and what its tests need into $(VENV)"
	@$(PIP) --editable '.[dev]'
	@touch $(VENV)/.base $@

$(VENV)/.docs: $(VENV)/.dev
	@echo "installing what builds the site into $(VENV)"
	@$(PIP) --editable '.[dev,docs]'
	@touch $@

$(VENV)/.scvi: $(VENV)/.dev
	@echo "installing scvi-tools into $(VENV)"
	@$(PIP) --editable '.[dev,scvi]'
	@touch $@

$(VENV)/.python:
	@for python in $(or $(PYTHON),python3.11 python3); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "creating $(VENV) with $$python"; \
	        "$$python" -m venv $(VENV) && touch $@; exit; \
	    fi; \
	done; \
	echo "imputome needs Python 3.11 or newer; tried: $(or $(PYTHON),python3.11 python3)." \
	    "Install it, or say where it is: make PYTHON=/path/to/python3.11" >&2; \
	exit 1

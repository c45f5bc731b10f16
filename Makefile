# make demo, make test, make check, make bench: each sets up .venv first if it is not there.
# make facts and make packages set up environments of their own, and throw them away.
#
#   PYTHON=python3.12   the Python to set it up with (3.11 or newer)
#   VENV=/some/folder   where to
#   EXTRA=cuda12        MLX's backend on Linux (cpu if left out; on a Mac there is nothing to choose)

PYTHON ?= python3
VENV ?= .venv
ifeq ($(shell uname -s),Linux)
EXTRA ?= cpu
endif

comma := ,
PREFIX := $(if $(EXTRA),$(EXTRA)$(comma))
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check -qq
# Compiled files are kept, whatever the environment says: else each worker takes ten seconds for the
# tests, and each process that a test starts half a second for the package.
PYTEST := PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m pytest -q

# In place of the wheel's reference BLAS, where the system has it.
OPENBLAS := $(firstword $(wildcard /usr/lib/*/openblas-pthread/libopenblas.so.0))

LAWS := tests/laws tests/algebra tests/rewrite/test_preserving.py tests/rewrite/test_shift.py

.PHONY: help demo test sweep soak packages mutants check facts bench format clean

help:
	@echo "make demo    a first look: predictions before and after an edit inside a model"
	@echo "make test    the tests"
	@echo "make sweep   the slow tests, over many models, those of other packages included"
	@echo "make packages  these alone: models of mlx-vlm, mlx-audio and others, installed for the run"
	@echo "make soak    an hour of mixed use in eight threads; MINUTES=10 for less"
	@echo "make check   lint, format, types, floors"
	@echo "make mutants break the code on purpose, and see which test notices"
	@echo "make facts   what is believed of MLX, on the oldest and newest versions allowed"
	@echo "make bench   what a trace costs, and all else that is measured; the pages' figures are made anew"
	@echo "make format  let ruff put the code in shape"

demo: $(VENV)/.stamp-run
	@$(VENV)/bin/python -m mlxgraph demo

test: $(VENV)/.stamp-dev
	$(PYTEST) -m "not slow and not soak" -n auto --dist loadfile

sweep: $(VENV)/.stamp-dev
	$(PYTEST) -m slow --ignore=tests/packages -n auto --dist loadfile
	HYPOTHESIS_PROFILE=thorough $(PYTEST) -m "not slow" $(LAWS) -n auto --dist loadfile
	@$(MAKE) packages PYTHON=$(VENV)/bin/python

MINUTES ?= 60
soak: $(VENV)/.stamp-dev # no part of any other
	SOAK_MINUTES=$(MINUTES) $(PYTEST) -m soak tests/soak -s

packages: # in an environment of its own
	@$(PYTHON) -m tests.packages.in_environment $(EXTRA)

mutants: $(VENV)/.stamp-dev # the code broken on purpose: some ten minutes
	$(VENV)/bin/python -m tests.mutants

check: $(VENV)/.stamp-dev
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy
	$(PYTEST) tests/test_floors.py

facts: # in environments of its own
	@$(PYTHON) tests/mlx_facts/on_versions.py $(EXTRA)

bench: $(VENV)/.stamp-run # ONLY="trace_overhead rooms" for some of them
	$(if $(OPENBLAS),LD_PRELOAD=$(OPENBLAS)) $(VENV)/bin/python benchmarks/everything.py $(ONLY)
	$(VENV)/bin/python benchmarks/figures.py # a page never shows other figures than results.json

format: $(VENV)/.stamp-dev
	$(VENV)/bin/python -m ruff check --fix .
	$(VENV)/bin/python -m ruff format .

clean:
	rm -rf $(VENV) build dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mlxgraph needs Python 3.11 or newer; write: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-run: pyproject.toml | $(VENV)/bin/python
	@echo "installing mlxgraph$(if $(EXTRA),[$(EXTRA)]), a minute or two ..."
	@$(PIP) install -e '.$(if $(EXTRA),[$(EXTRA)])'
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing mlxgraph[$(PREFIX)dev], a minute or two ..."
	@$(PIP) install -e '.[$(PREFIX)dev]'
	@touch $(VENV)/.stamp-run $@

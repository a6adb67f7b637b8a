# The two commands of the README, and what CI calls. PYTHON chooses the interpreter, NAME the sweep's folder.

PYTHON ?= python3
NAME ?= quick
PYTEST_OPTIONS ?=
BIN := .venv/bin
# Two processes: one has a Ray cluster for the tests that share it.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope $(PYTEST_OPTIONS)

.PHONY: sweep test coverage faults faults-today docs lint format

sweep: .venv/installed
	$(BIN)/python sweeps/run.py --search optuna --name $(NAME)

test: .venv/installed
	$(PYTEST)

# Line and branch coverage of the same tests, processes that they start included.
coverage: .venv/installed
	$(PYTEST) --cov --cov-report=term:skip-covered

# Everything that a sweep must survive, and a table of it. faults-today has a part: a smoke test, and what is due today.
faults: .venv/installed
	$(BIN)/python -m pytest tests/faults --faults all

faults-today: .venv/installed
	$(BIN)/python -m pytest tests/faults --faults today

docs: .venv/docs-installed
	$(BIN)/python docs/generate.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "lmsweep needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version); use make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

.venv/docs-installed: .venv/installed
	$(PIP_INSTALL) --editable '.[docs]'
	@touch $@

# The two commands of the README, and what CI calls. PYTHON chooses the interpreter, NAME the sweep's folder.

PYTHON ?= python3
NAME ?= quick
BIN := .venv/bin

.PHONY: sweep test faults lint format

sweep: .venv/installed
	$(BIN)/python sweeps/run.py --search optuna --name $(NAME)

test: .venv/installed
	$(BIN)/python -m pytest

# Everything that a sweep must survive, and a table of it; `make test` has a part.
faults: .venv/installed
	$(BIN)/python -m pytest tests/faults --faults

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "lmsweep needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version); use make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

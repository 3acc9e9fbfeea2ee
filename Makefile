# Everything that a developer or a new user types. Needs make and Python 3.11 or newer with venv, nothing else.

PYTHON ?= python3
ARGS   ?=

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip -qq --disable-pip-version-check install -c constraints.txt

# One stamp for each stage of the installation: a stage is done again only when what it depends on has changed.
CREATED := $(VENV)/.created
TORCH   := $(VENV)/.torch
PACKAGE := $(VENV)/.package
TESTS   := $(VENV)/.tests

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test lint check clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(PACKAGE) ## Install what is needed and search the example study with two workers.
	@$(BIN)/automl run studies/digits.py --workers 2

test: $(TESTS) ## Run the tests; narrow them down with ARGS="-k lease".
	@$(BIN)/python -m pytest $(ARGS)

lint: $(TESTS) ## Check style, types and the direction of imports.
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

check: lint test ## The one gate: lint, then test.

clean: ## Remove .venv and every cache; studies in .automl stay.
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Asked before .venv is made; through $(error), so that the answer is one line.
PROBE = import importlib.util as u, sys; print("ok" if sys.version_info >= (3, 11) and u.find_spec("ensurepip") else \
"automl needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": name another one, as in make PYTHON=python3.12" \
if sys.version_info < (3, 11) else "$(PYTHON) has no venv: install it, as in apt install python3-venv")
SILENT = $(PYTHON) does not run: install Python 3.11 or newer, or name one, as in make PYTHON=python3.12
ANSWER = $(or $(shell $(PYTHON) -c '$(PROBE)' 2>/dev/null),$(SILENT))

$(CREATED):
	$(eval answer := $(ANSWER))$(if $(filter-out ok,$(answer)),$(error $(answer)))
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(TORCH): constraints.txt | $(CREATED)
	@echo "Installing torch and the rest into $(VENV) (about two minutes) ..."
	@$(PIP) torch==2.13.0
	@touch $@

$(PACKAGE): pyproject.toml constraints.txt $(TORCH)
	@echo "Installing automl into $(VENV) ..."
	@$(PIP) -e .
	@touch $@

$(TESTS): pyproject.toml constraints.txt $(TORCH)
	@echo "Installing automl and its test tools into $(VENV) ..."
	@$(PIP) -e '.[test]'
	@touch $(PACKAGE) $@

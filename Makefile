# Everything runs in .venv, which is made on first use and kept until `make clean`.
# Needs: make and Python 3.11 or newer with venv and pip. Say PYTHON=/path/to/python to choose one.

VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format types docs bench clean

help:
	@echo "make demo      install and fit the eight schools"
	@echo "make test      the default tests ($(JOBS) at a time)"
	@echo "make test-all  the slow tests too"
	@echo "make lint      ruff: rules and format"
	@echo "make format    ruff: put both right"
	@echo "make types     pyright"
	@echo "make docs      the documentation, strictly, into site/"
	@echo "make bench     the benchmarks"
	@echo "make clean     remove .venv and everything built"

# python3.11 where it works, else python3 where it is new enough.
$(VENV)/.made:
	@for p in $(PYTHON) python3.11 python3 python; do \
	    if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found="$$p"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "error: lowerbound needs Python 3.11 or newer; neither python3.11 nor python3 is one." >&2; \
	    echo "       Install it, or say where it is: make PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv --clear $(VENV) || { \
	    echo "error: $$found cannot make a virtual environment (on Debian: apt install python3-venv)." >&2; exit 1; }
	@touch $@

# Built without isolation, so that the build tools are pinned as well.
$(VENV)/.build-tools: $(VENV)/.made constraints.txt
	@$(PIP) hatchling editables
	@touch $@

$(VENV)/.installed: $(VENV)/.build-tools pyproject.toml
	@echo "installing lowerbound"
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.build-tools pyproject.toml
	@echo "installing lowerbound and what its development needs"
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed
	@$(BIN)/lowerbound fit eight-schools || [ $$? -eq 3 ]

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow" $(ARGS)

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-dev
	$(BIN)/pyright

docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) site build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

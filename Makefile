PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test clean

# The virtual environment that `make demo` and `make test` share; made again when pyproject.toml changes.
setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

# Builds recipes/quickstart.yaml on whatever this machine has, and says where to look.
demo: setup
	HF_HUB_OFFLINE=1 $(BIN)/factory build recipes/quickstart.yaml --out runs/quickstart

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

clean:
	rm -rf runs $(VENV)

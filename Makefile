# Two commands do everything: `make demo` and `make test`. Both create .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint test-slow clean

demo: $(VENV)/.installed
	$(BIN)/mct demo

test: $(VENV)/.installed lint
	$(BIN)/pytest -n auto

test-slow: $(VENV)/.installed
	$(BIN)/pytest -n auto -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src tests docs examples benchmarks README.md CONTRIBUTING.md CHANGELOG.md

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[torch,onnx,dev]"
	touch $@

clean:
	rm -rf $(VENV)

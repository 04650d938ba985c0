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

# The checks stand once, in .pre-commit-config.yaml; a commit hook and CI run the same.
lint: $(VENV)/.installed
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[torch,onnx,dev]"
	touch $@

clean:
	rm -rf $(VENV)

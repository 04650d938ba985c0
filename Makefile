# Two commands do everything: `make demo` and `make test`. Both create .venv first.
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
BIN := $(VENV)/bin

.PHONY: demo test lint test-slow peers clean

demo: $(VENV)/.installed
	$(BIN)/mct demo

test: $(VENV)/.installed lint
	KERAS_BACKEND=tensorflow $(BIN)/pytest -n auto
	$(JAX_CACHE) KERAS_BACKEND=jax $(BIN)/pytest -n auto -m "keras and not slow"
	KERAS_BACKEND=torch $(BIN)/pytest -n auto -m "keras and not slow"

test-slow: $(VENV)/.installed
	KERAS_BACKEND=tensorflow $(BIN)/pytest -n auto -m slow
	$(JAX_CACHE) KERAS_BACKEND=jax $(BIN)/pytest -n auto -m "keras and slow"
	KERAS_BACKEND=torch $(BIN)/pytest -n auto -m "keras and slow"

# Other packages, two of them with the names of ours, so in an environment of their own.
peers: $(VENV)/.installed $(PEERS)/.installed
	$(BIN)/python benchmarks/peers.py --peers-python $(PEERS)/bin/python

# Tests compile the same small programs again and again.
JAX_CACHE := JAX_COMPILATION_CACHE_DIR=$(abspath $(VENV))/jax_cache \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1

# TensorFlow writes pages about the machine's instructions otherwise.
export TF_CPP_MIN_LOG_LEVEL := 3

# The checks stand once, in .pre-commit-config.yaml; a commit hook and CI run the same.
lint: $(VENV)/.installed
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[torch,keras,jax,onnx,dev]" tensorflow-cpu
	touch $@

$(PEERS)/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --requirement benchmarks/peers.txt
	touch $@

clean:
	rm -rf $(VENV) $(PEERS)

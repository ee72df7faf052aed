# Every target builds on `setup`, so each is one command on a fresh machine.
#
#   make demo                     train the shipped policy with GRPO and print before against after
#   make test                     lint, types, and every test but the slow ones
#   make setup PYTHON=python3.12  another interpreter for .venv
#   make setup PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#                                 a Linux machine without a GPU: the small CPU build of torch

PYTHON ?= python3
PIP_FLAGS ?=
EXTRAS := data,sb3,train,dev

BIN := .venv/bin
STAMP := .venv/.installed
PYTEST := $(BIN)/python -m pytest
BENCHMARKS := $(sort $(filter-out %_peers.py,$(wildcard benchmarks/bench_*.py)))

# Tests must not depend on the network, and threads that spin slow a busy machine down.
check test test-slow: export HF_HUB_OFFLINE := 1
check test test-slow: export OMP_NUM_THREADS ?= 2

.PHONY: setup demo check test test-slow bench bench-env wheel models clean

setup: $(STAMP)

# torch goes first and alone, so that no dependency can choose another build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make setup PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt torch
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

demo: setup
	$(BIN)/zerosearch demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict zs_env agents envs_registry
	$(PYTEST) -q tests/test_architecture.py

test: check
	$(PYTEST) -m "not slow and not gpu and not network"

test-slow: setup
	$(PYTEST) -m "slow and not gpu and not network"

bench: setup
	@for script in $(BENCHMARKS); do echo "$$script"; $(BIN)/python $$script || exit 1; done

# Beside other packages' environments, each installed into .peers/ for it.
bench-env: setup
	$(BIN)/python benchmarks/bench_env_peers.py

# A stale build/ would put deleted files into the wheel.
wheel: setup
	rm -rf build
	$(BIN)/python -m build --wheel --no-isolation

# Retrains the shipped models from nothing; the result belongs into the next commit.
models: setup
	$(BIN)/zerosearch models build --out zs_env/models

clean:
	rm -rf build dist .peers *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

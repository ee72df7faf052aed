# Every target builds on `setup`, so each is one command on a fresh machine.
#
#   make demo                     train the shipped policy with GRPO and print before against after
#   make test                     lint, types, and every test but the slow ones
#   make test-vllm                a real vLLM server on the CPU, in an environment of its own
#   make setup PYTHON=python3.12  another interpreter for .venv
#   make setup PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#                                 a Linux machine without a GPU: the small CPU build of torch

PYTHON ?= python3
PIP_FLAGS ?=
EXTRAS := data,remote,dense,serve,sb3,train,dev

BIN := .venv/bin
STAMP := .venv/.installed
PYTEST := $(BIN)/python -m pytest
VLLM_PYTHON ?= .vllm-env/bin/python
VLLM_STAMP := .vllm-env/.installed
# Those that need other packages or a GPU, or take long, have targets of their own.
BENCHMARKS := $(sort $(filter-out %_peers.py %_train.py %_gpu.py %_growth.py %_processes.py,$(wildcard benchmarks/bench_*.py)))

# Tests must not depend on the network, and threads that wait for each other slow a busy machine down.
check test test-slow test-vllm: export HF_HUB_OFFLINE := 1
check test test-slow test-vllm: export OMP_NUM_THREADS ?= 1

.PHONY: setup demo check test test-slow vllm-env test-vllm bench bench-env bench-train bench-growth bench-gpu wheel models clean

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
	$(PYTEST) -m "not slow and not gpu and not network and not vllm"

test-slow: setup
	$(PYTEST) -m "slow and not gpu and not network and not vllm"

# vLLM pins its own torch and transformers, so it lives in an environment apart. Its torch is a CPU
# build, for which PIP_FLAGS has to name an index where pip does not know one. A host with a GPU
# and vLLM installed needs none of this: make test-vllm VLLM_PYTHON=python
vllm-env: $(VLLM_STAMP)

$(VLLM_STAMP): constraints-vllm.txt
	$(PYTHON) -m venv .vllm-env
	.vllm-env/bin/python -m pip install $(PIP_FLAGS) --no-deps -r constraints-vllm.txt
	@touch $@

ifeq ($(VLLM_PYTHON),.vllm-env/bin/python)
test-vllm: vllm-env
endif
test-vllm: setup
	ZS_VLLM_PYTHON=$(VLLM_PYTHON) $(PYTEST) -m vllm

bench: setup
	@for script in $(BENCHMARKS); do echo "$$script"; $(BIN)/python $$script || exit 1; done

# Beside other packages' environments, each installed into .peers/ for it.
bench-env: setup
	$(BIN)/python benchmarks/bench_env_peers.py

# An update beside that of TRL, which is among the extras, and beside a loop that asks one by one.
bench-train: setup
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/bench_train.py

bench-growth: setup
	$(BIN)/python benchmarks/bench_growth.py

bench-gpu: setup
	$(BIN)/python benchmarks/bench_gpu.py

# A stale build/ would put deleted files into the wheel.
wheel: setup
	rm -rf build
	$(BIN)/python -m build --wheel --no-isolation

# Retrains the shipped models from nothing; the result belongs into the next commit.
models: setup
	$(BIN)/zerosearch models build --out zs_env/models

clean:
	rm -rf build dist .peers *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

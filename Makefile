.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ACCELERATOR := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
FAISS_cpu := $(shell grep '^faiss-cpu' constraints.txt)
FAISS_gpu := $(shell sed -n 's/^gpu = \["\(.*\)"\].*/\1/p' pyproject.toml)

# Nothing here asks a model hub, sends telemetry or looks for updates.
export HF_HUB_OFFLINE := 1
export DO_NOT_TRACK := 1
export NO_ALBUMENTATIONS_UPDATE := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help setup demo format lint types test test-slow test-order gpu-set wheel bounds bench check weights sheets measure data-format constraints clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## make the virtual environment and install the exact set of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'uv>=0.9'
	grep -v '^faiss-' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r $(VENV)/constraints.txt
	@# The one part that a machine decides; for a GPU with the CUDA libraries that torch has by then.
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c $(VENV)/constraints.txt '$(FAISS_$(ACCELERATOR))'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup ## the main job on the miniature, ending with something to look at
	$(BIN)/iedit demo --root runs/demo

bench: setup ## every benchmark
	for theme in benchmarks/bench_*.py; do $(BIN)/python -m benchmarks.$$(basename $$theme .py) || exit 1; done

format: setup ## rewrite the sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup ## format check, lint, import contracts, declared dependencies
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/deptry . --no-ansi

types: setup ## static types
	$(BIN)/pyright

test: setup ## the fast tests
	$(BIN)/pytest -n auto --dist loadgroup

test-order: setup ## the fast tests in one process and in random order (its seed is printed first)
	$(BIN)/pytest -n0 --random-order

test-slow: setup ## every test, the long ones included
	$(BIN)/pytest -n auto --dist loadgroup -m 'not gpu'

gpu-set: ## what a machine with an NVIDIA driver installs, in an environment of its own; needs none itself
	$(MAKE) setup ACCELERATOR=gpu VENV=$(VENV)-gpu
	$(VENV)-gpu/bin/python -c 'import torch, faiss; faiss.StandardGpuResources; print("torch", torch.__version__, "faiss", faiss.__version__)'

wheel: setup ## build the wheel, install it alone into an empty environment, and do the main jobs with it elsewhere
	$(BIN)/uv build --quiet --wheel --out-dir $(VENV)/dist .
	$(BIN)/python .ci/wheel.py $(VENV)/dist

bounds: setup ## ask of every upper bound whether it still holds a newer version back, and whether its reason holds
	$(BIN)/python .ci/bounds.py

check: lint types test ## the short part of what CI runs

weights: setup ## train the whole miniature family from scratch (hours on two cores)
	$(BIN)/python -m miniature.pretrain

sheets: setup ## contact sheets of the miniature and its models
	$(BIN)/python -m miniature.sheets --out runs/sheets

measure: setup ## what the miniature family reaches, as a table
	$(BIN)/python -m miniature.measure

data-format: setup ## write docs/data_format.md anew from the code that reads and writes the format
	$(BIN)/python -m tasks.data_format > $(VENV)/data_format.md
	mv $(VENV)/data_format.md docs/data_format.md

constraints: ## resolve constraints.txt anew (only when a bound in pyproject.toml changed)
	$(BIN)/uv pip compile pyproject.toml --group download --extra dev --extra ray --extra s3 --python-version 3.11 \
		--no-annotate --no-emit-index-url --no-header -o constraints.txt

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .cache

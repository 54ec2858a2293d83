# Every target sets up what it needs: an environment of its own in .venv, made once, and brought up to date when
# setup.cfg or pyproject.toml change. Nothing is downloaded after that.

# The interpreter that the environment is made with: the first of these that is new enough, or `make PYTHON=... demo`.
CANDIDATES = $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3 python)
# Tests run in so many processes at once; "logical" is one per core, up to four, as each compiles much and holds memory.
WORKERS = logical
# More arguments for pytest, e.g. `make test ARGS="-k grammar"`.
ARGS =

VENV = .venv
RUN = $(VENV)/bin/python -m
DEMO = demo
SETTINGS = setup.cfg pyproject.toml

SHELL = /bin/sh
.DEFAULT_GOAL = help
.NOTPARALLEL:
.PHONY: help demo test test-slow lint types bench clean

help:
	@echo 'make demo       the effort of a neuron, characters from one example, languages from ten strings; see $(DEMO)/'
	@echo 'make test       lint, types and all quick tests'
	@echo 'make test-slow  the tests that need minutes each'
	@echo 'make lint       ruff: rules and format'
	@echo 'make types      mypy'
	@echo 'make bench      speed against the analytic limit and against PyTorch, which it installs'
	@echo 'make clean      removes the environment and caches; runs and results stay'

demo: $(VENV)/.installed
	$(RUN) experiments.learning_effort --experiment=single_neuron --preset=laptop --workdir=$(DEMO)/learning_effort
	$(RUN) experiments.few_shot --preset=laptop --algorithm=maml,prototypical --config.encoder.filters=16 \
	  --config.training.steps=150 --config.training.validate_every=75 --workdir=$(DEMO)/few_shot
	$(RUN) experiments.npbml --preset=laptop --config.pretraining.steps=300 --config.pretraining.validate_every=150 \
	  --config.outer.steps=100 --config.training.validate_every=50 --workdir=$(DEMO)/npbml
	$(RUN) experiments.formal_languages --preset=laptop --workdir=$(DEMO)/formal_languages
	@echo
	@echo 'Figures:' && ls $(DEMO)/*/figures/*.png | sed 's/^/  /'
	@echo 'Numbers:' && ls $(DEMO)/*/result.json | sed 's/^/  /'

test: lint types
	$(RUN) pytest -n $(WORKERS) --maxprocesses=4 $(ARGS)

test-slow: $(VENV)/.installed-test
	$(RUN) pytest -n $(WORKERS) --maxprocesses=4 -m slow $(ARGS)

lint: $(VENV)/.installed-test
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types: $(VENV)/.installed-test
	$(RUN) mypy

# PyTorch installs its CUDA libraries too unless a CPU build is at hand already.
bench: $(VENV)/.installed-bench
	$(RUN) benchmarks $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@for python in $(CANDIDATES); do \
	  if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$($$python --version) ($$python)"; \
	    exec $$python -m venv --clear $(VENV); \
	  fi; \
	done; \
	echo "error: Python >= 3.11 with the modules venv and ensurepip is needed, and none of these is one: $(CANDIDATES)." >&2; \
	echo "Install one (on Debian and Ubuntu: python3 and python3-venv) or say where it is:" >&2; \
	echo "  make PYTHON=/path/to/python3.12 $(or $(MAKECMDGOALS),test)" >&2; \
	exit 1

$(VENV)/.installed: $(SETTINGS) | $(VENV)/bin/python
	$(RUN) pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-test: $(SETTINGS) | $(VENV)/bin/python
	$(RUN) pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(SETTINGS) | $(VENV)/bin/python
	$(RUN) pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@ $(VENV)/.installed

# `make train` and `make test` need Python 3.11 or newer and nothing else: they make a virtual
# environment in .venv, install into it, and install again only when the packaging has changed.

PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; \
	done; echo python3)
# Processes that the tests run in.
WORKERS ?= 2
# Handed on to the command, as in: make train ARGS="data=rotated_digits baselines=true"
ARGS ?=

VENV := .venv
RUN := $(VENV)/bin/python
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
# `pip install -e` reads these: a change in them is a reason to install again.
PACKAGING := pyproject.toml setup.py

# ArviZ 1 needs Python 3.12. With pyenv, python3.12 may be a stub that runs nothing.
PYTHON312 ?= $(shell for p in python3.12 $$(pyenv root 2>/dev/null)/versions/3.12.*/bin/python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null && echo $$p && exit; \
	done; echo python3.12)
# What pip is asked for there, as in: make test-py312 TORCH312=torch==2.13.0
TORCH312 ?= torch

VENV312 := .venv312
RUN312 := $(VENV312)/bin/python

.DEFAULT_GOAL := help
.PHONY: help train test lint format notebooks test-py312 lowest

help:
	@echo "make train      train the default experiment; others with ARGS=\"data=... recipe=...\""
	@echo "make test       lint, then every test, then every notebook"
	@echo "make lint       ruff and mypy"
	@echo "make format     lay out the code and mend what ruff can mend"
	@echo "make notebooks  run every notebook from top to bottom"
	@echo "make test-py312 the tests of pyro_vmtl/inspection under Python 3.12 with ArviZ 1"
	@echo "make lowest     the oldest versions that pyproject.toml allows, installed and used"

train: $(VENV)/installed
	$(RUN) -m pyro_vmtl.train $(ARGS)

# One thread a process: the processes share the cores, and sums repeat to the last bit.
test: export OMP_NUM_THREADS := 1
test: lint
	$(RUN) -m pytest -n $(WORKERS) -q
ifneq ($(NOTEBOOKS),)
	$(RUN) -m pytest --nbmake -n $(WORKERS) -q $(NOTEBOOKS)
endif

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/installed-dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

notebooks: $(VENV)/installed-dev
ifneq ($(NOTEBOOKS),)
	$(RUN) -m pytest --nbmake -n $(WORKERS) -q $(NOTEBOOKS)
else
	@echo "There is no notebook in notebooks/."
endif

# What differs between ArviZ 0 and 1 is all in pyro_vmtl/inspection: its tests, the export of a run
# and the notebook that opens one, in an environment of their own.
test-py312: export OMP_NUM_THREADS := 1
test-py312: $(VENV312)/installed
	$(RUN312) -c 'import arviz; print("ArviZ", arviz.__version__)'
	$(RUN312) -m pytest -n $(WORKERS) -q tests/inspection tests/runs/test_report.py
ifneq ($(wildcard notebooks/02*.ipynb),)
	$(RUN312) -m pytest --nbmake -n $(WORKERS) -q $(wildcard notebooks/02*.ipynb)
endif

# Not part of `make test`: it installs gigabytes into an environment of its own.
lowest: export OMP_NUM_THREADS := 1
lowest: $(VENV)/installed
	$(RUN) benchmarks/lowest.py

# Not `.[dev]`: it has torchvision, which holds torch to a release of its own and is not needed here.
$(VENV312)/installed: $(PACKAGING)
	@$(PYTHON312) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' \
		|| { echo "$(PYTHON312) is not Python 3.12; say which is: make PYTHON312=..." >&2; exit 1; }
	@$(RUN312) -m pip --version >/dev/null 2>&1 || $(PYTHON312) -m venv $(VENV312)
	$(RUN312) -m pip install --disable-pip-version-check '$(TORCH312)' 'arviz>=1' -e . \
		hypothesis ipykernel nbmake pytest pytest-xdist
	@touch $@

# An environment that pip cannot be run in, or none, is made anew around what is there.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is not Python 3.11 or newer; say which is: make PYTHON=..." >&2; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -e '$(1)'
	@touch $@
endef

$(VENV)/installed: $(PACKAGING)
	$(call install,.)

# It holds the base install as well.
$(VENV)/installed-dev: $(PACKAGING)
	$(call install,.[dev])
	@touch $(VENV)/installed

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

.DEFAULT_GOAL := help
.PHONY: help train test lint format notebooks

help:
	@echo "make train      train the default experiment; others with ARGS=\"data=... recipe=...\""
	@echo "make test       lint, then every test, then every notebook"
	@echo "make lint       ruff and mypy"
	@echo "make format     lay out the code and mend what ruff can mend"
	@echo "make notebooks  run every notebook from top to bottom"

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

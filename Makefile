# make demo: learn the demo stream and show what was remembered.   make test: all tests.
# make processors: the tests with other processors' arithmetic.
# make docs: the site.
# make gpu: builds, checks and times the kernels on a machine with an NVIDIA GPU.
# make lint: findings, layout and types, which make test holds too.   make format: mends what mends itself.
PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/demo
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml $(shell find csrc -type f 2>/dev/null)

.PHONY: demo test docs fuzz processors lint format gpu setup clean

demo: setup
	$(BIN)/mmcl-fast train demo --out $(OUT) --resume $(ARGS)

# One process per core with one thread each: the tests start many short processes of their own.
test: setup $(STAMPS)/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

# The site in build/site, without a network; a warning fails the build.
docs: setup $(STAMPS)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "built: build/site/index.html; to search in it: $(BIN)/python -m http.server -d build/site"

# 20,000 mutated files of every format through the workers that decode. make fuzz ARGS="--seed 7 --keep runs/killers"
fuzz: setup $(STAMPS)/test
	$(BIN)/python -m tests.media.fuzz $(ARGS)

# The tests again with the arithmetic of other processors: see tests/processors.sh. Takes an hour and more.
processors: setup $(STAMPS)/test
	bash tests/processors.sh $(ARGS)

lint: $(STAMPS)/test
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

format: $(STAMPS)/test
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

# With the system's python and no download: benchmarks/gpu.sh says what it needs. make gpu OUT=folder ARGS="build smoke"
gpu:
	PYTHON="$(PYTHON)" bash benchmarks/gpu.sh "$(if $(filter file,$(origin OUT)),runs/gpu,$(OUT))" $(ARGS)

setup: $(STAMPS)/build
	@echo "set up: $(BIN)/mmcl-fast --help (just mmcl-fast after: . $(BIN)/activate)"

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is missing or older than 3.11; make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: $(PYTHON) cannot make virtual environments; on Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 2; }
	@command -v $${CXX:-c++} >/dev/null || \
	  { echo "error: no C++ compiler; on Debian or Ubuntu: sudo apt install g++" >&2; exit 2; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")))' || \
	  { echo "error: the headers of $(PYTHON) are missing; on Debian or Ubuntu: sudo apt install python3-dev" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/requirements: requirements.txt requirements-nodeps.txt $(STAMPS)/venv
	$(PIP) install -r requirements.txt
	$(PIP) install --no-deps -r requirements-nodeps.txt
	@touch $@

# Editable: Python sources are read from the checkout; only csrc and the packaging files make it build again.
$(STAMPS)/build: $(SOURCES) $(STAMPS)/requirements
	$(PIP) install --no-deps -e .
	@touch $@

$(STAMPS)/docs: requirements-docs.txt $(STAMPS)/requirements
	$(PIP) install -r requirements-docs.txt
	@touch $@

$(STAMPS)/test: requirements-test.txt requirements-docs.txt $(STAMPS)/requirements
	$(PIP) install -r requirements-test.txt
	$(PIP) install --no-deps --upgrade --target $(VENV)/triton-3.6 triton==3.6.0  # of torch 2.11: kernels compile under it
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info runs .pytest_cache
	find mmcl_fast -name '_C*.so' -delete

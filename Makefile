# make demo         set up a virtual environment and run the main job
# make test         set up and run the tests (ARGS="tests/test_cli.py -x" selects some of them; WORKERS at once)
# make check        run the linters, the type checker and the tests
# make test-latest  run the tests on the newest releases of all dependencies, in an environment of its own (LATEST)
# make models       fetch and convert real public models (ARGS="smollm2 gemma" selects some; into HARNESS_EXT_MODELS)
# make engines      build llama.cpp's server, with which tests drive a real engine (into HARNESS_EXT_MODELS);
#                   ARGS="llamacpp vllm" also installs vLLM for CPUs there, in an environment of its own
# make clean        remove build outputs and caches, but not the virtual environments or the runs
#
# VENV=<folder> uses another virtual environment; PYTHON=<python> creates it with another interpreter (3.11 or later).

PYTHON ?= python3
VENV ?= .venv
LATEST ?= .venv-latest
ARGS ?=
# Which releases pip installs: the tested ones.
RELEASES ?= -c constraints.txt

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := Makefile pyproject.toml setup.py constraints.txt $(wildcard build_backend/*) harness_ext/bridge/startup.py
# The extras that the tests need, without vLLM, which needs a GPU.
EXTRAS := dev,finetune,inspect,openai,report,scienceqa,track
# The embedded pair is so small that a second thread costs more than it saves: on two busy cores, the 50 questions of
# the demonstration took 40 s with two threads and 9 s with one.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS
# The order of the files is that of tests/conftest.py.
WORKERS ?= 2
PYTEST := -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)
FOLDERS := $(wildcard models tasks enhance finetune)

.PHONY: demo engines models test test-latest lint types layout check clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/lm_eval run --model feedback_pair --tasks babi_stories --limit 50 --batch_size 32 --output_path results/demo
	@echo "Transcripts: $$(ls -t harness_ext_runs/*/transcripts.jsonl | head -n 1)"
	@echo "Scores:      $$(ls -t results/demo/*/results_*.json | head -n 1)"

models: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/models.py $(ARGS)

engines: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/engines.py $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python $(PYTEST)

# There may be newer releases than those of the last time, so everything is installed again.
test-latest:
	rm -f $(LATEST)/.installed $(LATEST)/.installed-dev
	$(MAKE) $(LATEST)/.installed-dev VENV=$(LATEST) RELEASES='--upgrade --upgrade-strategy eager'
	$(LATEST)/bin/harness-ext doctor
	$(LATEST)/bin/python -m pip check
	$(LATEST)/bin/python $(PYTEST)

lint: $(VENV)/.installed-dev layout
	$(BIN)/ruff check .
	cd build/layout && $(abspath $(BIN))/lint-imports $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.import_linter_cache

types: $(VENV)/.installed-dev layout
	cd build/layout && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p harness_ext
	$(BIN)/mypy build_backend setup.py

# mypy and import-linter derive packages from the folder structure, so a folder of links reproduces that of an
# installation.
layout:
	rm -rf build/layout && mkdir -p build/layout/harness_ext
	ln -s $(foreach path,$(wildcard harness_ext/*) $(FOLDERS),$(CURDIR)/$(path)) build/layout/harness_ext/

check: lint types test

clean:
	rm -rf build dist *.egg-info .mypy_cache .import_linter_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	@echo 'Installing into $(VENV); this takes some minutes the first time.'
	$(PIP) install --quiet $(RELEASES) -e .
	touch $@

$(VENV)/.installed-dev: $(SOURCES) | $(BIN)/python
	@echo 'Installing into $(VENV), with the tools for the tests; this takes some minutes the first time.'
	$(PIP) install --quiet $(RELEASES) -e '.[$(EXTRAS)]'
	touch $@ $(VENV)/.installed

# Some distributions ship Python without ensurepip; then the existing pip installs one into the environment.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'Python 3.11 or later is needed: make … PYTHON=<python>' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || \
	    { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }

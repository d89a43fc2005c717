# make demo   set up a virtual environment and run the main job
# make test   set up and run the tests          (ARGS="tests/test_cli.py -x" picks some)
# make check  lint, types and tests
# make clean  remove what builds leave; the virtual environment and the runs stay
#
# VENV=<folder> uses another virtual environment, PYTHON=<python> makes it with another interpreter (3.11 or later).

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := Makefile pyproject.toml setup.py constraints.txt $(wildcard build_backend/*) harness_ext/startup.py
# What the tests need beyond the package itself; vLLM is left out, it needs a GPU.
EXTRAS := dev,finetune,openai,report,scienceqa
# The embedded pair is so small that a second thread costs more than it brings: on two busy cores the demonstration's
# 50 questions took 40 s with two threads and 9 s with one.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS
FOLDERS := $(wildcard models tasks enhance finetune)

.PHONY: demo test lint types check clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/lm_eval run --model feedback_pair --tasks babi_stories --limit 50 --batch_size 32 --output_path results/demo
	@echo "Transcripts: $$(ls -t harness_ext_runs/*/transcripts.jsonl | head -n 1)"
	@echo "Scores:      $$(ls -t results/demo/*/results_*.json | head -n 1)"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

# mypy takes packages as folders lie: a folder of links gives it the layout that an installation has.
types: $(VENV)/.installed-dev
	rm -rf build/types && mkdir -p build/types/harness_ext
	ln -s $(foreach path,$(wildcard harness_ext/*) $(FOLDERS),$(CURDIR)/$(path)) build/types/harness_ext/
	cd build/types && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p harness_ext
	$(BIN)/mypy build_backend setup.py

check: lint types test

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	@echo 'Installing into $(VENV); the first time takes some minutes.'
	$(PIP) install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(SOURCES) | $(BIN)/python
	@echo 'Installing into $(VENV), with what the tests need; the first time takes some minutes.'
	$(PIP) install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@ $(VENV)/.installed

# Some distributions ship Python without ensurepip: then the pip that is there fills the environment.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'Python 3.11 or later is needed: make … PYTHON=<python>' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || \
	    { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }

# make demo and make test do all set-up themselves; `make test TORCH=torch==2.13.0` chooses a torch.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch>=2.11
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(wildcard csrc/*)

.PHONY: demo test lint soak clean

$(VENV)/.installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" wheel numpy "ninja>=1.11" "pybind11>=2.13" "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-build-isolation -e ".[demo,plot,tensorboard]"
	touch $@

# The extras of the tests and linters, for the package that is installed already.
$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet "pruning[onnx,ray,structured,timm,transformers,vision,test,lint]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/prune run digits --out runs

test: $(VENV)/.tested
	$(BIN)/python -m pytest --durations=15 --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.tested
	$(BIN)/ruff check cli pruning benchmarks tests setup.py
	$(BIN)/ruff format --check cli pruning benchmarks tests setup.py
	$(BIN)/mypy

# Thousands of kills, damaged run folders and disk faults; takes half an hour. make soak SOAK="--kills 50 --folders 500 --faults 50"
soak: $(VENV)/.tested
	$(BIN)/python tests/soak.py $(SOAK)

clean:
	rm -rf build dist *.egg-info $(VENV)

include benchmarks/native.mk

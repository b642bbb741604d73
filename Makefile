# make demo, make test and make lint work on a fresh clone with nothing but Python 3.11 or later.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Small matrices and several workers: a BLAS thread each, or they spin against each other.
THREADS := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
# TensorRT-RTX builds engines without a GPU, but has no wheels for other machines than these (and Windows).
RTX := $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m))

.PHONY: demo try test test-slow lint benchmark clean

demo: $(VENV)/.runtime
	$(BIN)/sbim-deploy demo -o demo --force

try: $(VENV)/.runtime
	$(BIN)/python docs/try/build_page.py build/try --serve

test: $(VENV)/.dev
	$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/.dev
	$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(VENV)/.dev
	$(BIN)/sbim-deploy bench demo
	$(BIN)/python benchmarks/espirit.py

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or later is needed"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[cpu]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[cpu,openvino,export,vp,train,experiment,peers,nifti,mrd2,dicom,twix,serve,cluster,triton,dev]"
	$(if $(RTX),$(PIP) --editable ".[rtx]" || echo "TensorRT-RTX cannot be installed: its tests are skipped")
	touch $@ $(VENV)/.runtime

clean:
	rm -rf $(VENV) demo dist build .mypy_cache .ruff_cache .pytest_cache

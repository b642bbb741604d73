# make demo, make test and make lint work on a fresh clone with nothing but Python 3.11 or later.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Small matrices and several workers: a BLAS thread each, or they spin against each other.
THREADS := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
# TensorRT-RTX builds engines without a GPU, but has no wheels for other machines than these (and Windows).
RTX := $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m))

# What a release is installed with: everything but PyTorch and NVIDIA's packages.
RELEASE_EXTRAS := cpu openvino serve cluster triton dicom nifti mrd2 twix noncartesian experiment
RELEASE := build/release
SBOM := dist/sbim-deploy.cdx.json

.PHONY: lock-check demo try test test-slow lint benchmark site lock sbom dist audit clean

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

# The documentation as a site that needs no server, build/site/index.html, with the notebooks' outputs, and with the page
# that reconstructs in the browser (which needs one) where npm can fetch its packages.
site: $(VENV)/.dev
	$(THREADS) EXECUTE_NOTEBOOKS=1 TRY_PAGE=1 NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"
# Every package with the SHA-256 of its files, for every platform, from constraints.txt.
lock: $(VENV)/.dev
	$(PIP) uv
	$(BIN)/uv pip compile pyproject.toml $(RELEASE_EXTRAS:%=--extra %) --constraint constraints.txt --universal \
		--python-version 3.11 --generate-hashes --no-header --quiet --output-file requirements.lock.new
	(sed -n '/^#/!q;p' requirements.lock && cat requirements.lock.new) >requirements.lock.all
	mv requirements.lock.all requirements.lock
	rm requirements.lock.new

# The index has every package of the lock, by the SHA-256 that stands there; no package is fetched where the index tells it.
lock-check: $(VENV)/.dev
	$(BIN)/python -m pip install -qq --disable-pip-version-check --dry-run --ignore-installed --require-hashes \
		--requirement requirements.lock

# A release as it is installed: pip takes no file whose SHA-256 is not in requirements.lock.
$(RELEASE)/report.json: requirements.lock | $(VENV)/.dev
	rm -rf $(RELEASE)
	$(BIN)/python -m venv --without-pip $(RELEASE)
	$(BIN)/python -m pip --python $(RELEASE) install --quiet --disable-pip-version-check --require-hashes \
		--report $(RELEASE)/unchecked.json --requirement requirements.lock
	$(BIN)/python -m pip --python $(RELEASE) check --disable-pip-version-check
	mv $(RELEASE)/unchecked.json $@

sbom: $(RELEASE)/report.json
	$(BIN)/python release/sbom.py $(RELEASE) $(RELEASE)/report.json $(SBOM)

# The wheel holds the bill of materials in .dist-info/sboms; what was built is tried where nothing else is installed.
dist: sbom
	rm -f dist/sbim_deploy-*
	SBIM_DEPLOY_SBOM=$(SBOM) $(BIN)/python -m hatchling build -d dist
	$(BIN)/python -m pip --python $(RELEASE) install --quiet --disable-pip-version-check --no-deps --no-index \
		--force-reinstall dist/sbim_deploy-*.whl
	$(RELEASE)/bin/sbim-deploy simulate -o build/scan.h5 --slices 1 --size 64 --undersample 2 --force
	$(RELEASE)/bin/sbim-deploy recon build/scan.h5 -o build/images.h5 --preset fast --force

audit: $(VENV)/.dev
	$(BIN)/python release/audit.py requirements.lock constraints.txt

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or later is needed"'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[cpu]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[cpu,openvino,export,vp,train,experiment,peers,nifti,mrd2,dicom,twix,noncartesian,serve,cluster,triton,docs,dev]"
	$(if $(RTX),$(PIP) --editable ".[rtx]" || echo "TensorRT-RTX cannot be installed: its tests are skipped")
	touch $@ $(VENV)/.runtime

clean:
	rm -rf $(VENV) demo dist build .mypy_cache .ruff_cache .pytest_cache

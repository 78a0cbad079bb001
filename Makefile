# Everything a fresh machine with Python >= 3.11 needs: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo check test lint types docs real node oldest wheel clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools --constraint constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# the whole job on the model and clips that come with the package
demo: setup
	$(BIN)/zeroq-asr demo build/demo

# a quick look at a change: lint, types, the tests that mirror what changed since BASE, and the whole job on a small model
BASE ?= HEAD
check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy & types=$$!; \
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -x tests/test_smoke.py $$($(BIN)/python tests/changed.py $(BASE)) \
	  -m "not real" && wait $$types

# the whole suite; tests on real models run where ZEROQ_TEST_DATA names their folder, else skip
test: setup
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --dist loadfile

# only the tests on real models and real speech
real: setup
	$(BIN)/python -m pytest -m real

# the runtime that the JavaScript of docs/deploy.md needs: ZEROQ_NODE_MODULES=build/node/node_modules
node:
	mkdir -p build/node
	npm install --prefix build/node --no-audit --no-fund --silent onnxruntime-web@1.30.0

# do files run, with the same integers, on the oldest ONNX Runtime that their certificates name?
oldest: setup
	$(BIN)/python benchmarks/oldest_runtimes.py --work build/oldest

# the wheel, installed alone into an environment of its own, and the whole job from there
wheel:
	rm -rf build/wheel && mkdir -p build/wheel
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet --upgrade pip setuptools --constraint constraints.txt
	build/wheel/venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	build/wheel/venv/bin/python -m pip install --quiet --constraint constraints.txt torch
	build/wheel/venv/bin/python -m pip install --quiet --constraint constraints.txt build/wheel/*.whl
	cd build/wheel && venv/bin/zeroq-asr demo out && venv/bin/zeroq-asr doctor

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

docs: setup
	$(BIN)/mkdocs build --strict --site-dir build/docs

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

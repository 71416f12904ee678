PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo validate test test-slow lint format bench clean

help:
	@echo "make demo       create .venv, install, run the main job: demo/demo.png, demo/demo.nc, a table;"
	@echo "                a few minutes, the first time with the download of JAX"
	@echo "make validate   every learning rule against SGD at four D: validation/, some 15 minutes"
	@echo "make test       create .venv, install, run the tests"
	@echo "make test-slow  the same with every check at its full size"
	@echo "make lint       ruff, pyright and the direction of imports"
	@echo "make bench      timings, as ratios measured in one run"

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("odeae needs Python 3.11 or later, " + sys.executable + " is " + sys.version.split()[0] + "; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(READY)
	@echo "the demo takes a few minutes"
	$(BIN)/odeae demo --output demo --overwrite

validate: $(READY)
	$(BIN)/odeae validate --output validation --overwrite

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/bench.py

clean:
	rm -rf $(VENV)

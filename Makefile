# make demo        set up, then train and compare masks on Shapes (SEED=1, SEED="0 1 2")
# make test        set up, then run all tests, in two processes of one thread each, a file in one;
#                  PYTEST_ARGS are pytest's own, e.g. make test PYTEST_ARGS="-n 0 -x tests/modeling"
# make wheel-test  of these the one that installs a wheel and uses it in an empty folder
# make lint        check format, style and types; make format mends the first two
PYTHON ?= python3.10
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
READY := $(VENV)/ready
# pip compiles nothing (--no-compile): what is imported is compiled then, and has to stay compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test wheel-test lint format clean

demo: $(READY)
	$(BIN)/python -m seg_every_thing quickstart --output output/demo --seed $(SEED)

test: $(READY)
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

wheel-test: $(READY)
	$(PYTEST) tests/test_wheel.py $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The stamp comes last, so that an installation that broke off is done again.
$(READY): requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --upgrade-strategy only-if-needed -r requirements.txt
	$(BIN)/python -m pip install --no-build-isolation --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

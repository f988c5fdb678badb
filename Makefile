# make demo    set up, then train and compare masks on Shapes (SEED=1 for another seed)
# make test    set up, then run all tests
# make lint    check format, style and types; make format mends the first two
PYTHON ?= python3.10
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test lint format clean

demo: $(READY)
	$(BIN)/python -m seg_every_thing quickstart --output output/demo --seed $(SEED)

test: $(READY)
	$(BIN)/python -m pytest

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
	$(BIN)/python -m pip install --upgrade-strategy only-if-needed -r requirements.txt
	$(BIN)/python -m pip install --no-build-isolation --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

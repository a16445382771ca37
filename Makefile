# Everything a developer or CI does, through one virtual environment made from pinned versions.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
# Tests and lint are many small processes: one torch thread each.
export OMP_NUM_THREADS ?= 1

.PHONY: setup run test test-slow test-failed lint format protos dashboards bench clean

setup: $(STAMP)

# Made again whenever what it was made from changes.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

run: setup
	$(BIN)/layerwise train

test: setup
	$(BIN)/pytest -m 'not slow' --durations 15

test-slow: setup
	$(BIN)/pytest -m slow --durations 15

# What failed in the last run of either, and nothing else.
test-failed: setup
	$(BIN)/pytest -m '' --last-failed --last-failed-no-failures none

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: setup
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. protos/layerwise.proto

dashboards: setup
	$(BIN)/python -m deploy.dashboards

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache

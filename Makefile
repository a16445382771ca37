# Everything a developer or CI does, through a virtual environment made from pinned versions.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
PACKAGE := .venv/.package
# Tests and lint are many small processes: give each a single torch thread.
export OMP_NUM_THREADS ?= 1
# mkdocs-material's advertisement of its successor.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: release-tools help setup run test test-slow test-long test-failed test-lowest test-highest test-python coverage lint audit format docs site protos dashboards figures node bench release clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## create .venv from constraints.txt; every target that needs .venv does so

# Rebuilt whenever a source of the environment changes.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@ $(PACKAGE)

# A first training does not wait for the tools of developers.
$(PACKAGE): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[tls]'
	touch $@

run: $(PACKAGE) ## train handwritten digits with a master and three slaves on this machine
	$(BIN)/layerwise train

test: setup ## run the fast tests, in two processes
	$(BIN)/pytest -m 'not slow' --durations 15 -n 2 --dist worksteal

test-slow: setup ## run the slow tests, in two processes: accuracy, faults, browser, Prometheus, containers
	$(BIN)/pytest -m 'slow and not long' --durations 15 -n 2 --dist worksteal

test-long: setup ## run the tests of minutes each, one by one: soak, a thousand runs under faults
	$(BIN)/pytest -m long --durations 15

test-failed: setup ## run the tests that failed in the last run, one by one
	$(BIN)/pytest -m '' --last-failed --last-failed-no-failures none

test-lowest: ## run the fast tests on the lowest supported versions, in .venv-lowest
	$(call test_on,lowest)

test-highest: ## run the fast tests on the highest supported versions, in .venv-highest
	$(call test_on,highest)

test-python: ## run the fast tests on another Python: make test-python PYTHON=python3.13, in .venv-python3.13
	test -x .venv-$(notdir $(PYTHON))/bin/python || $(PYTHON) -m venv .venv-$(notdir $(PYTHON))
	.venv-$(notdir $(PYTHON))/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	.venv-$(notdir $(PYTHON))/bin/python -m pytest -m 'not slow' $(TESTS)

define test_on
	test -x .venv-$(1)/bin/python || $(PYTHON) -m venv .venv-$(1)
	.venv-$(1)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-$(1).txt --editable '.[test]'
	.venv-$(1)/bin/python -m pytest -m 'not slow'
endef

coverage: setup ## run the fast tests with coverage, subprocesses included; the report is htmlcov/index.html
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m 'not slow'
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report --skip-covered

lint: setup ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: ## look for advisories about the pinned versions; passes where the advisory service cannot be asked
	test -x .venv-tools/bin/python || $(PYTHON) -m venv .venv-tools
	.venv-tools/bin/python tests/audit.py constraints.txt

format: setup ## format the code and apply safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup ## serve the documentation at http://127.0.0.1:8000, rebuilt at every change
	$(BIN)/mkdocs serve

site: setup ## build the documentation into build/site; a broken link or anchor fails
	$(BIN)/mkdocs build --strict

protos: setup ## generate protos/layerwise_pb2.py from the service descriptions
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. protos/layerwise.proto

dashboards: setup ## generate Grafana's dashboards and docs/metrics.md
	$(BIN)/python -m deploy.dashboards

figures: setup ## draw the README's figure from benchmarks/results, and the figures of the unlocks
	$(BIN)/python -m benchmarks.figure
	$(BIN)/python -m deploy.site

node: ## install the packages of the JavaScript client that a test runs
	npm ci --prefix tests/integration/node --no-audit --no-fund --ignore-scripts

bench: setup ## run the benchmarks that need no data set and no network namespaces
	$(BIN)/python -m benchmarks

release: ## build sdist, wheel and a bill of materials into dist/, check them, and train with the wheel in a fresh environment
	rm -rf dist .venv-release
	test -x .venv-tools/bin/python || $(PYTHON) -m venv .venv-tools
	.venv-tools/bin/python -m pip install --quiet --disable-pip-version-check build cyclonedx-bom twine
	.venv-tools/bin/python -m build --outdir dist .
	.venv-tools/bin/python -m twine check --strict dist/*
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	.venv-tools/bin/cyclonedx-py environment --output-reproducible -o dist/sbom.cdx.json .venv-release/bin/python
	cd dist && ../.venv-release/bin/layerwise train --set run.batches=200 --run-dir "$$(mktemp -d)/run"
	$(MAKE) release-tools

# As people install a command: by uv and by pipx, into folders that go afterwards.
release-tools:
	.venv-tools/bin/python -m pip install --quiet --disable-pip-version-check uv pipx
	folder=$$(mktemp -d) && trap "rm -rf $$folder" EXIT && \
	export UV_TOOL_DIR=$$folder/uv UV_TOOL_BIN_DIR=$$folder/bin PIPX_HOME=$$folder/pipx PIP_CONSTRAINT=$(CURDIR)/constraints.txt && \
	.venv-tools/bin/uv tool install --quiet --python $(CURDIR)/.venv-release/bin/python --constraints constraints.txt dist/*.whl && \
	$$folder/bin/layerwise train --set run.batches=60 --run-dir $$folder/one && \
	.venv-tools/bin/pipx run --python $(CURDIR)/.venv-release/bin/python --spec dist/*.whl layerwise train --set run.batches=60 --run-dir $$folder/two

clean: ## delete the virtual environments and every generated cache
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage* htmlcov

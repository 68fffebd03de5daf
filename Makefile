# Hone: two commands matter. `make demo` shows it, `make test` proves it. Both install what they need.
# Options of the demo: ONCE=1 (end after the story), LABEL=me (you label), STORY=bad-release, SEED=n, PORT=n.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TFLITE_VENV := .venv-tflite
TFLITE_STAMP := $(TFLITE_VENV)/.installed
VENDOR := hub/web/static/vendor
VENDORED := htmx.org/dist/htmx.min.js htmx-ext-sse/dist/sse.min.js idiomorph/dist/idiomorph-ext.min.js \
            uplot/dist/uPlot.iife.min.js uplot/dist/uPlot.min.css

.PHONY: demo test check bench setup lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo          the whole story on this machine: broker, hub, three cameras, real images"
	@echo "make demo ONCE=1   the same, ends by itself with a table and .hone/demo.json"
	@echo "make demo STORY=bad-release   a release that looks better and is worse: stopped and rolled back"
	@echo "make test          install what is needed, check the code and run every test"
	@echo "make check         ruff, mypy, import-linter only"
	@echo "make bench         list the benches"

demo: setup
	@$(BIN)/hone-hub demo $(if $(filter-out 0,$(ONCE)),--once) $(if $(filter me,$(LABEL)),--label me) $(if $(STORY),--story $(STORY)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(PORT),--port $(PORT))

test: setup $(TFLITE_STAMP)
	@scripts/need-system chromium chromium
	@scripts/need-system strace strace
	@$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	@echo "Each bench explains itself with --help and prints one JSON object as its last line:"
	@for file in tests/bench/[a-z]*.py; do echo "  $(BIN)/python -m tests.bench.$$(basename $$file .py)"; done

setup: $(STAMP) $(VENDOR)/.copied
	@scripts/need-system mosquitto mosquitto

$(STAMP): pyproject.toml constraints.txt
	@scripts/make-venv $(PYTHON) $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[edge,hub,onnx,demo,test]'
	@touch $@

$(TFLITE_STAMP): constraints-tflite.txt
	@scripts/make-venv $(PYTHON) $(TFLITE_VENV)
	@$(TFLITE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement constraints-tflite.txt
	@touch $@

$(VENDOR)/.copied: package-lock.json $(STAMP)
	@scripts/front-end $(VENDOR) $(VENDORED)
	@touch $@

lock: setup
	@scripts/lock $(BIN) constraints.txt

clean:
	rm -rf $(VENV) $(TFLITE_VENV) node_modules $(VENDOR) .hone .mypy_cache .ruff_cache .pytest_cache .hypothesis

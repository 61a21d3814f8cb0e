.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

help:  ## print the targets
	@grep -hE '^[a-z0-9_-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

quickstart: $(READY)  ## train plain Cutout and KeepCutout on handwritten digits; a table and a picture
	$(BIN)/python tools/quickstart.py

test: $(READY)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

slow: $(READY)  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

stress: $(READY)  ## kill, misuse and damage runs for an hour; WORDS="--help" tells more
	PYTHONPATH=tests:tools $(BIN)/python -m stressing $(WORDS)

sweep: $(READY)  ## try the maps on the smallest network of each family; WORDS as well
	PYTHONPATH=tests:tools $(BIN)/python -m sweeping $(WORDS)

check: $(READY)  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## build the documentation, strictly: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

install: $(READY)  ## make .venv and install everything into it

$(READY): pyproject.toml core/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable ./core --editable ".[dev]"
	touch $(READY)

report: $(READY)  ## set finished runs beside the paper: report/report.html
	$(BIN)/python tools/report.py runs --out report --open

reid: $(READY)  ## install torchreid and what it needs
	$(BIN)/python -m pip install --editable ".[reid]"

detectron2: $(READY)  ## install Detectron2 and what detection needs
	$(BIN)/python -m pip install --editable ".[detection]" "setuptools<81" wheel ninja
	$(BIN)/python -m pip install --no-build-isolation "git+https://github.com/facebookresearch/detectron2.git"

examples: $(READY)  ## install what docs/examples run in
	$(BIN)/python -m pip install --editable ".[examples]"

clean:  ## remove .venv, caches and the quickstart's runs
	rm -rf .venv site runs/quickstart .pytest_cache .mypy_cache .ruff_cache

.PHONY: help quickstart test slow stress sweep check docs install report reid detectron2 examples clean

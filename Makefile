# Targets need Python 3.11+ with venv and pip; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint format evidence clean

# Installed once, and again when the requirements change. The constraints pin every version, so that a run next year
# gets the same ones.
$(VENV)/installed-%: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $@

demo: $(VENV)/installed-all
	$(BIN)/aradals run demo --output runs/demo

test: lint
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest --hypothesis-profile=new

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell src tests docs benchmarks README.md CONTRIBUTING.md
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry src

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Runs or resumes every study, and writes its page; magic, spambase and cifar10 are found in the folder ARADALS_DATA.
STUDIES ?= letter magic spambase cifar10-overfit

evidence: $(VENV)/installed-all
	for name in $(STUDIES); do \
	  $(BIN)/aradals run $$name --workers 2 --output runs/$$name && \
	  $(BIN)/python benchmarks/render.py --study runs/$$name/results.json --output results/$$name/README.md || exit 1; \
	done
	$(BIN)/python benchmarks/render.py --all

clean:
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache

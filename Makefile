# Targets need Python 3.11+ with venv and pip; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow lint format docs wheel evidence clean

# Installed once, and again when the requirements change. The constraints pin every version, so that a run next year
# gets the same ones.
$(VENV)/installed-package: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[all]'
	touch $@

# What a dependency group needs; only pip 25.1 or newer knows these groups.
$(VENV)/installed-%: $(VENV)/installed-package
	$(INSTALL) --upgrade pip
	$(INSTALL) -e '.[all,distributed,export,tensorboard,transformers]' --group $*
	touch $@

# A small study on a table of letters that comes with the package.
demo: $(VENV)/installed-package
	$(BIN)/aradals run demo --output runs/demo

test: lint
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest --hypothesis-profile=new

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry src

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in the folder site/. It needs no network, and its pages load nothing from elsewhere.
docs: $(VENV)/installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The files of a release, in the folder dist/, and a test of the wheel outside of this folder.
wheel: $(VENV)/installed-test
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m pytest -m slow tests/test_wheel.py

# Runs or resumes every study, and writes its page; all data but those of letter are found in the folder ARADALS_DATA.
STUDIES ?= letter ranking magic spambase fashion features sections cifar10-overfit

evidence: $(VENV)/installed-package
	for name in $(STUDIES); do \
	  $(BIN)/aradals run $$name --workers 2 --output runs/$$name && \
	  $(BIN)/python benchmarks/evidence/render.py --study runs/$$name/results.json --output results/$$name/README.md || exit 1; \
	done
	$(BIN)/python benchmarks/evidence/render.py --all

clean:
	rm -rf $(VENV) runs site dist .mypy_cache .pytest_cache .ruff_cache

# One command each. The environment is made on first use and again whenever its pins change; nothing else is needed.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := runs/digits
TESTS ?= tests
SEEDS ?= 1

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo $$p && break; done)

.PHONY: help ablation quick test test-seeds drills docs format lint clean
.DEFAULT_GOAL := help

help:
	@echo 'make ablation   train every arm of the symmetry ablation on digits and write the report'
	@echo 'make quick      run some tests of the core and the models, in under a minute'
	@echo 'make test       run the test suite on two cores, with the same numbers every time'
	@echo 'make test-seeds run it with numbers drawn anew; SEEDS=100 TESTS=tests/theory for more of a part'
	@echo 'make drills     kill, damage, copy and deceive studies for an hour or so; ONLY="kills copies" for some of it'
	@echo 'make docs       run what the README, the pages and the notebooks say, and follow the links of every page'
	@echo 'make format     put format, imports and whatever else Ruff can mend right'
	@echo 'make lint       check format, lint and types'
	@echo 'make clean      remove caches and build products (never results, never $(VENV))'

$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -c 'import pip; $(NEW_ENOUGH)' >/dev/null 2>&1 || { \
		$(or $(PYTHON),false) -c '$(NEW_ENOUGH)' >/dev/null 2>&1 || { \
			echo "hopmix needs Python 3.11 or newer, but $(if $(PYTHON),'$(PYTHON)',every python3 on PATH) is older or missing:" \
				"install one, or name it with 'make PYTHON=/path/to/python3'." >&2; exit 1; }; \
		$(PYTHON) -m venv --clear $(VENV); }
	@echo 'Installing the pinned versions into $(VENV) (some minutes the first time) ...'
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt hatchling editables
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation \
		-e '.[lab,notebooks,dev]'
	@touch $@

# A study is never overwritten: one that is there already is continued, which is a no-op when it is complete.
ablation: $(STAMP)
	$(BIN)/hopmix ablate --out $(RUN) $(if $(wildcard $(RUN)/study.json),--resume)
	@echo "Report: $(CURDIR)/$(RUN)/report.html"

# One file stays on one worker, so that its module's fixtures and compiled programs are made once; in their order, for
# the files with the longest tests come first.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
	--no-loadscope-reorder -q -ra --durations=10

# Some tests of each module of the core and of each model, one row of each: for use after every edit.
quick: $(STAMP)
	$(PYTEST) --quick

test: $(STAMP)
	$(PYTEST)

# Each test that draws numbers runs for each of the seeds in turn, while the programs that it compiled are still there.
test-seeds: $(STAMP)
	$(PYTEST) --seeds $(SEEDS) $(TESTS)

drills: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.reliability.drill $(if $(ONLY),--only $(ONLY))

docs: $(STAMP)
	$(PYTEST) tests/test_readme.py tests/test_docs.py tests/notebooks

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := tests/repo/test_dependencies.py tests/stats/test_explain.py tests/stats/test_patterns.py tests/plots \
  tests/archive/test_archive.py
COVERED := 85
# Four workers for two cores, since many tests wait; file by file, the slowest first (tests/conftest.py).
# Compiled files are kept, whatever the environment says: the tests start many processes.
TEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --durations=25

.PHONY: help demo lab test test-midnight test-deep system js lint types coverage lowest package hooks bench diagnosis truth pictures notebooks docs month soak \
  fuzz mutants audit clean

# First in the file, so that `make` alone runs nothing.
help:
	@echo "demo lab: try it.  test lint types coverage: check it.  test-midnight test-deep: with another clock, with more seeds."
	@echo "lowest package: lowest versions; wheel, sdist and each extra.  docs notebooks pictures js: build the manual and the page."
	@echo "bench diagnosis truth soak month fuzz mutants audit: measure and search for faults.  hooks clean: set up, tidy up."

demo: $(VENV)/.demo
	$(BIN)/allocframe demo

lab: $(VENV)/.lab
	$(BIN)/allocframe demo --lab

test: $(VENV)/.dev system
	$(TEST)

# The same tests ten minutes after midnight UTC: what happened an hour ago happened on another day.
test-midnight: $(VENV)/.dev system
	CLOCK_OFFSET=$$((600 - $$(date +%s) % 86400)) PYTHONPATH=$(CURDIR)/tests/helpers/shifted_clock \
	  $(TEST) -W "ignore:Module already imported:pytest.PytestAssertRewriteWarning"

# With more seeds of every story, and the tests marked as deep, for a night.
test-deep: $(VENV)/.dev system
	$(TEST) --deep

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Every public name has a type that pyright knows. It looks for packages in the first python of PATH, and takes
# the classes of an untyped one for unknown. ipywidgets is untyped, and Terminal is a widget: call it typed here.
types: $(VENV)/.dev
	@rm -rf build/types
	$(BIN)/python -m uv pip install --quiet --no-deps --target build/types .
	cp -r $(VENV)/lib/python*/site-packages/ipywidgets build/types && touch build/types/ipywidgets/py.typed
	cd build && PATH=$(CURDIR)/$(BIN):$$PATH PYTHONPATH=$(CURDIR)/build/types \
	  python -m pyright --verifytypes allocframe --ignoreexternal

coverage: $(VENV)/.dev system
	$(TEST) --cov --cov-report=term --cov-report=html:build/coverage --cov-fail-under=$(COVERED)

# The lowest version of each dependency that pyproject.toml allows, with tests that use each of them.
# A dependency's dependencies are the newest, which may call what it does out of date: those warnings are not ours.
lowest: $(VENV)/.dev
	@rm -rf build/lowest && mkdir -p build
	$(BIN)/python -m uv pip compile --quiet --resolution lowest-direct --all-extras pyproject.toml --output-file build/lowest.txt
	$(BIN)/python -m uv venv --quiet --python $(BIN)/python build/lowest
	$(BIN)/python -m uv pip install --quiet --python build/lowest/bin/python -r build/lowest.txt --editable . \
	  hypothesis nbval playwright pytest pytest-timeout trustme
	build/lowest/bin/python -m pytest -p no:cacheprovider -W ignore::DeprecationWarning $(LOWEST)

# Wheel and sdist, their metadata, and each extra installed alone from the wheel; EXTRAS="stats plots" checks only these.
package: $(VENV)/.dev
	$(BIN)/python tools/package.py $(EXTRAS)

hooks: $(VENV)/.dev
	$(BIN)/pre-commit install

# The tests of the widgets need a browser, those of Spark a Java; without one they are skipped, and say so.
system:
	@for wanted in chromium:chromium java:default-jre-headless; do \
	  command -v $${wanted%:*} >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
	  { apt-get -qq update && apt-get -qq install -y $${wanted#*:} >/dev/null; } || echo "$${wanted#*:} could not be installed"; \
	done

js:
	cd js && npm ci --no-audit --no-fund && npm run build

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/walk.py
	$(BIN)/python benchmarks/explain.py
	$(BIN)/python benchmarks/watch.py
	$(BIN)/python benchmarks/exec.py
	$(BIN)/python benchmarks/terminal.py
	$(BIN)/python benchmarks/timeline.py
	$(BIN)/python benchmarks/archive.py
	$(BIN)/python benchmarks/recover.py
	$(BIN)/python benchmarks/size.py

diagnosis: $(VENV)/.dev
	$(BIN)/python benchmarks/diagnosis.py --write

# Every statistic against worlds of known truth; WORLDS=200 for a quick look.
truth: WORLDS ?= 2000
truth: $(VENV)/.dev
	$(BIN)/python tools/statistics_truth.py $(WORLDS)

month: $(VENV)/.dev
	$(BIN)/python tools/month.py

soak: $(VENV)/.dev
	$(BIN)/python tools/soak.py

# Seconds for each parser.
fuzz: SECONDS ?= 60
fuzz: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --group fuzz
	$(BIN)/python tools/fuzz.py $(SECONDS)

mutants: $(VENV)/.dev
	$(BIN)/python tools/mutants.py

# Needs the vulnerability service of PyPI.
audit: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip_audit --skip-editable

pictures: $(VENV)/.dev
	$(BIN)/python docs/pictures.py
	$(BIN)/python docs/widget_pictures.py
	$(BIN)/python docs/size_pictures.py

notebooks: $(VENV)/.dev
	@mkdir -p build
	env -u NOMAD_ADDR TQDM_DISABLE=1 PYTHONSTARTUP=$(CURDIR)/tests/helpers/fixed_clock.py ALLOCFRAME_AUDIT=$(CURDIR)/build/audit.jsonl $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
	  --ExecutePreprocessor.store_widget_state=False notebooks/*.ipynb

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -q -E -W --keep-going -c docs . build/docs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "allocframe needs Python 3.11 or newer; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "On Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.lab: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[lab]'
	@touch $@

# What is imported is compiled then. To compile all of it beforehand takes longer.
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[all]' --group dev
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@

clean:
	rm -rf $(VENV) build dist

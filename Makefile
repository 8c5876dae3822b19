PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo lab test system js lint bench diagnosis pictures notebooks docs month soak fuzz mutants audit clean

demo: $(VENV)/.demo
	$(BIN)/allocframe demo

lab: $(VENV)/.lab
	$(BIN)/allocframe demo --lab

test: $(VENV)/.dev system
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tests of the widgets need a browser, those of Spark a Java; without one they are skipped, and say so.
system:
	@for wanted in chromium:chromium java:default-jre-headless; do \
	  command -v $${wanted%:*} >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
	  { apt-get -qq update && apt-get -qq install -y $${wanted#*:} >/dev/null; } || echo "$${wanted#*:} could not be installed"; \
	done

js:
	cd js && npm ci --no-audit --no-fund && npm run build

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/fetch.py
	$(BIN)/python benchmarks/explain.py
	$(BIN)/python benchmarks/watch.py
	$(BIN)/python benchmarks/terminal.py
	$(BIN)/python benchmarks/archive.py
	$(BIN)/python benchmarks/size.py

diagnosis: $(VENV)/.dev
	$(BIN)/python benchmarks/diagnosis.py

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
	env -u NOMAD_ADDR TQDM_DISABLE=1 ALLOCFRAME_AUDIT=$(CURDIR)/build/audit.jsonl $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
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

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@

clean:
	rm -rf $(VENV) build dist

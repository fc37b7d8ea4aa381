# Each target sets up what it needs in .venv. `make demo` and `make test` are all that a user needs.
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
# The first interpreter that really runs and is new enough; give PYTHON=... to choose another.
PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11; do \
	"$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$candidate" && break; done)
ifdef UV
INSTALL := $(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt
else
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
endif

.PHONY: demo test test-all test-extra check bench soak lock clean

demo: $(VENV)/.demo
	$(BIN)/shardrank demo $(DEMO_FLAGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest

test-all: $(VENV)/.oracle
	$(BIN)/python -m pytest -m "not gpu and (slow or ray)"

# Trainers and a browser, outside of what every change must pass.
test-extra: $(VENV)-extra/.extra
	$(VENV)-extra/bin/python -m pytest -m extra

check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test
	$(BIN)/python bench/engine.py

# Kills and failing storage for SOAK_FLAGS="--minutes 10"; see docs/reliability.md.
soak: $(VENV)/.test
	$(BIN)/python bench/soak.py $(SOAK_FLAGS)

# Pins of everything but torch, whose build only pip may choose.
lock:
	uv pip compile pyproject.toml --universal --python-version 3.11 --upgrade \
		--extra cpu --extra s3 --extra prepare --extra eval \
		--group test --group check --group oracle \
		--no-annotate --no-header --no-emit-index-url --quiet --output-file constraints.txt

clean:
	rm -rf $(VENV) $(VENV)-extra build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "shardrank needs Python 3.11 or newer; none was found"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable ".[cpu]"
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable ".[cpu,s3,prepare,eval]" --group test
	@touch $@ $(VENV)/.demo

$(VENV)/.check: $(VENV)/.test
	$(INSTALL) --group check
	@touch $@

$(VENV)/.oracle: $(VENV)/.check
	$(INSTALL) --group oracle
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group torch
	@touch $@

# A place of its own: trainers choose their versions of what the tests pin.
$(VENV)-extra/.extra: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m venv $(VENV)-extra
	$(VENV)-extra/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VENV)-extra/bin/python -m pip install --quiet --editable ".[cpu,s3,prepare,eval]" --group test --group trainers
	@touch $@

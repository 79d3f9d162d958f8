# `make demo` and `make test` do everything on a fresh machine: they make .venv, install, and run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt
# With fewer threads than workers the tests fight for cores.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg

.PHONY: install demo test test-slow notebooks notebooks-full docs lint bench bench-svi clean

# The stamps make a rebuild happen only when what the environment is made from has changed.
$(VENV)/.base: $(INPUTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,notebooks]"
	touch $@

$(VENV)/.docs: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

install: $(VENV)/.base

demo: $(VENV)/.base
	$(BIN)/pyro-lvm fit ppca --data digits --latent-dim 8 --seed 0 --out runs/demo --force --figures

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(TEST_ENV) bash tests/wheel/check.sh $(BIN)
	$(TEST_ENV) $(BIN)/pytest -n 2 -m "not slow"

test-slow: $(VENV)/.test
	$(TEST_ENV) $(BIN)/pytest -n 2 --timeout 1800

notebooks: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python tests/notebooks.py

notebooks-full: $(VENV)/.test
	$(BIN)/python tests/notebooks.py --full

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.test
	$(BIN)/python benchmarks/ppca_digits.py

bench-svi: $(VENV)/.test
	$(BIN)/python benchmarks/svi_speed.py --threads 1
	$(BIN)/python benchmarks/svi_evidence.py
	$(BIN)/python benchmarks/svi_costs.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

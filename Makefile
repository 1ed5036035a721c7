# Two commands do all the set-up on a fresh machine: `make demo` and `make test`. The second time set-up is a no-op.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

PYTEST = $(BIN)/python -m pytest -n 2 --no-loadscope-reorder

export OMP_NUM_THREADS ?= 1
# Bytecode is kept: compiling the tests anew, with their assertions taken apart, costs each of pytest's processes ten seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check quick coverage fuzz lint docs notebook picture benchmark

demo: $(STAMP)  ## train, compare with theory, and print where the report is
	$(BIN)/grassmann-ssl compare --overwrite

test: $(STAMP)  ## all tests, the notebook among them
	$(PYTEST)

QUICK = HYPOTHESIS_PROFILE=quick $(PYTEST) -m
check: $(STAMP)  ## what to run before every commit: style, types, and the tests that take no time, on few examples
	@$(MAKE) --no-print-directory --jobs 2 lint quick

quick: $(STAMP)
	$(QUICK) "not slow and not long" tests --durations=10

ROOMS ?= audit data metrics nn objectives report runs training
coverage: $(STAMP)  ## which lines and branches of these rooms the quick examples of their tests run, without checks of shapes
	JAXTYPING_DISABLE=1 $(QUICK) "not slow and not hypothesis" $(ROOMS:%=tests/%) $(ROOMS:%=--cov=grassmann_ssl.%) --cov-branch --cov-report=term:skip-covered

SEED ?= $(shell $(PYTHON) -c "import random; print(random.randrange(2**31))")
fuzz: $(STAMP)  ## all property tests under a random seed, printed; a failure prints the blob that reproduces it
	@seed=$(SEED); echo "seed $$seed: repeat with make fuzz SEED=$$seed"; \
	HYPOTHESIS_PROFILE=random $(PYTEST) -m hypothesis --hypothesis-seed=$$seed tests

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## the site, as build/site/index.html; warnings, dead links and what is loaded from elsewhere are errors
	$(BIN)/python docs/overview.py
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/doctrees . build/site
	$(BIN)/python docs/links.py build/site

notebook: $(STAMP)  ## execute the notebooks from their sources
	$(BIN)/jupytext --to ipynb notebooks/*.py
	$(BIN)/python -m pytest --nbmake --overwrite notebooks

picture: $(STAMP)  ## the staircase of the README, drawn by the demo
	$(BIN)/grassmann-ssl compare --objectives barlow_twins --arms free --init-scales --overwrite --out runs/picture
	cp runs/picture/staircase.svg docs/staircase.svg

benchmark: $(STAMP)  ## measure against the peers and rewrite the table of the README
	$(BIN)/python -m benchmarks

$(STAMP): setup.cfg constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e '.[test,lint,docs]'
	touch $(STAMP)

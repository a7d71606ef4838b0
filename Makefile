# Everything a developer or CI runs. Each target sets up what it needs.
PYTHON ?= python3
VENV := .venv
NEIGHBOURS := .venv-neighbours
BIN := $(VENV)/bin
DIST ?= dist
PARSERS := metadata self-test config classes import model checkpoint zarr zarr2 png ledger
# onnxruntime reports to its maker otherwise; our commands see to it themselves
export ORT_DISABLE_TELEMETRY := 1

.PHONY: install wheel demo docs models neighbours test thorough fuzz lint check clean bench bench-runtime

install: $(VENV)/.installed ## make .venv with all that development needs

$(VENV)/.installed: pyproject.toml constraints.txt # pip compiles on one core only; templates in some packages are no Python
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -W ignore -m compileall -qq --workers 0 $(VENV)/lib || true
	touch $@

wheel: ## $(DIST)/matseg-<version>-py3-none-any.whl, to install where there is no clone
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir $(DIST) .

demo: install ## the whole way on a synthetic data set: prepare, train, evaluate, export, run
	$(BIN)/python -m models_zoo.build.demo

neighbours: $(NEIGHBOURS)/.installed ## make .venv-neighbours with other programs' readers, which the tests then use

$(NEIGHBOURS)/.installed: tests/neighbours/requirements.txt
	$(PYTHON) -m venv --clear $(NEIGHBOURS)
	$(NEIGHBOURS)/bin/python -m pip install --quiet --no-deps --requirement tests/neighbours/requirements.txt
	touch $@

test: install neighbours ## the whole test suite
	$(BIN)/python -m pytest --numprocesses 2 --durations 25

thorough: install neighbours ## what the suite leaves out for its time: every fault, every combination; hours; one part: TESTS=tests/resilience
	MATSEG_THOROUGH=1 $(BIN)/python -m pytest --numprocesses 2 --durations 25 $(or $(TESTS),tests)

lint: install ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: install ## ten thousand mutated inputs through the commands, then each parser guided by coverage; CASES= SEED= MINUTES=
	$(BIN)/python -m pip install --quiet --requirement tests/fuzz/requirements.txt
	PYTHONPATH=tests/support $(BIN)/python -m fuzzing --cases $(or $(CASES),10000) --seed $(or $(SEED),0)
	for target in $(PARSERS); do \
	  PYTHONPATH=tests/support $(BIN)/python -m fuzzing.coverage $$target --minutes $(or $(MINUTES),1) || exit 1; \
	done

bench: install ## time all networks and engines side by side on this machine, which should have nothing else to do; an hour
	$(BIN)/python benchmarks/networks.py $(BENCH)
	$(BIN)/python benchmarks/front.py
	$(BIN)/python benchmarks/engines.py $(ENGINES)
	$(BIN)/python benchmarks/end_to_end.py --model models_zoo/tomography-fast/model.onnx --save benchmarks/results/end_to_end.md
	$(BIN)/python benchmarks/peers.py --model models_zoo/tomography/model.onnx --save benchmarks/results/peers.md
	$(BIN)/python benchmarks/overview.py

bench-runtime: install ## time the runtime on this machine, which should have nothing else to do; reports in benchmarks/results/
	for name in startup parts context memory consensus; do \
	  $(BIN)/python benchmarks/$$name.py --save benchmarks/results/$$name.md || exit 1; \
	done

docs: install ## the documentation site in build/site; fails on a broken link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

models: install ## rebuild the models zoo from the data sets in data/; one of them: make models MODEL=dendrites SEEDS=3
	$(BIN)/python -m models_zoo.build build $(MODEL) --seeds $(or $(SEEDS),1)

check: lint test docs ## what CI runs, but for the demo

clean: ## remove what the targets made, not your data
	rm -rf demo dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

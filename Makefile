# `make demo` and `make test` are all that a fresh machine needs: they create .venv first.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
EXTRAS := dev,bench,train,view,prove

.PHONY: help demo test check pair clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    generate a little Python with the bundled pair, greedily and sampled, and draw every round"
	@echo "make test    run the tests"
	@echo "make check   lint, formatting, types, house rules"
	@echo "make pair    train the bundled pair again (an hour; ARGS=... goes to draftgraph.lab.train.pair)"
	@echo "make clean   remove .venv and caches"

# The stamp is older than what it depends on when the requirements have changed.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

PROMPT := class Stack:\n    def push(self, item):\n

demo: $(INSTALLED)
	@echo "== temperature 0: the text of plain greedy decoding, in fewer target calls"
	@printf '$(PROMPT)' | $(BIN)/draftgraph generate - --max-new-tokens 32 --temperature 0 --show
	@echo
	@echo "== temperature 0.8: exactly the law of plain sampling"
	@printf '$(PROMPT)' | $(BIN)/draftgraph generate - --max-new-tokens 32 --temperature 0.8 --seed 1 --show

# The tests' models are tiny: more threads only get in each other's way.
test: export OMP_NUM_THREADS ?= 1
test: $(INSTALLED)
	$(BIN)/python -m pytest $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/check_house.py

pair: $(INSTALLED)
	$(BIN)/python -m draftgraph.lab.train.pair --out src/draftgraph/data/pair $(ARGS)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find src tests tools experiments examples -name __pycache__ -type d -prune -exec rm -rf {} +

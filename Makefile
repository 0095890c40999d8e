PYTHON ?= python3
VENV := .venv/bin

.PHONY: demo test test-fast test-long style setup clean

demo: setup  ## watch a real language model teach itself for a few minutes
	@$(VENV)/python scripts/demo.py

test: setup  ## run every test, those with a real vLLM included
	@$(VENV)/python -m pytest

test-fast: setup  ## run the tests that need no model, in less than a minute
	@$(VENV)/python -m pytest -m "not training and not vllm and not distributed and not long"

test-long: setup  ## what takes minutes: runs killed thirty times, hostile answers by the hundred
	@$(VENV)/python -m pytest -m long

style: setup  ## format and lint
	@$(VENV)/ruff format . && $(VENV)/ruff check --fix .

setup:
	@$(PYTHON) scripts/setup_env.py

clean:
	rm -rf .venv outputs

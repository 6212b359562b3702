# `make demo` and `make test` need nothing but Python 3.10 or newer: they set everything up in .venv.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## List these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: .venv/demo ## Set up and open the page (MODEL=... for another model)
	$(BIN)/python demo.py $(if $(MODEL),--model "$(MODEL)")

test: .venv/test browser lint ## Set up, check the style and pass the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-slow: .venv/test ## The full-size models too: an hour, 20 GB of memory, 10 GB of disk
	$(BIN)/python -m pytest -m slow -x

lint: .venv/test ## Style, types and the one-way imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: .venv/test ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The page is tested in a real browser. Without one, and without the right to install it, those tests say so and skip.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null 2>&1 || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	else \
		echo "no Chromium found: the browser tests will be skipped (install chromium to run them)"; \
	fi

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "on Debian and Ubuntu: apt install python3-venv"; exit 1; }

.venv/demo: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/test: .venv/demo pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint requirements.txt --editable '.[web,test]'
	touch $@

clean: ## Remove what was set up
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

.PHONY: help demo test test-slow lint format browser clean

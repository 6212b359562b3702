# `make demo` and `make test` need nothing but Python 3.11 or newer: they set everything up in .venv.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## List these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: .venv/demo ## Set up and open the page (MODEL=... for another model, PORT=... for another port)
	$(BIN)/python demo.py $(if $(MODEL),--model "$(MODEL)") $(if $(PORT),--port $(PORT))

bot: .venv/bot ## Set up and start the Telegram bot (docs/telegram.md; token in TELEGRAM_BOT_TOKEN)
	@$(BIN)/python telegram_bot.py $(if $(MODEL),--model "$(MODEL)")

test: .venv/test browser lint ## Set up, check the style and pass the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-slow: .venv/test ## The full-size models too: an hour, 20 GB of memory, 10 GB of disk
	$(BIN)/python -m pytest -m slow -x

soak: .venv/test ## The bot under load and fifty stops at random steps, for long
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak

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
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "on Debian and Ubuntu: apt install python3-venv"; exit 1; }

.venv/demo: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/bot: .venv/demo pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint requirements.txt --editable '.[telegram]'
	touch $@

.venv/test: .venv/demo pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint requirements.txt --editable '.[web,telegram,test]'
	touch $@

.venv/train: .venv/demo pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint requirements.txt --editable '.[train]'
	touch $@

# The peers stand in an environment of their own; one that cannot be installed is named as missing in the report.
.venv-bench/ready: requirements.txt requirements-bench.txt pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --constraint requirements.txt --editable .
	sed '/^ *#/d' requirements-bench.txt | while read -r peer; do \
		.venv-bench/bin/python -m pip install --quiet --constraint requirements.txt $$peer || echo "not installed: $$peer"; \
	done
	touch $@

bench: .venv-bench/ready ## The speed beside other programs: hours, 20 GB of memory and 40 of disk (BENCH=... for options)
	.venv-bench/bin/python -m stablediff bench --report docs/benchmarks $(BENCH)

train: .venv/train ## Set up what training needs (docs/training.md)

# Each stage goes on where it was left, so this can be broken off and called again.
STAGE = $(BIN)/python -m stablediff train
sticker: .venv/train ## Train the bundled model again from nothing: days on a CPU
	$(STAGE) data
	$(STAGE) autoencoder configs/sticker/autoencoder.toml --out runs/sticker/autoencoder
	$(STAGE) text-encoder configs/sticker/text-encoder.toml --out runs/sticker/text-encoder
	$(STAGE) diffusion configs/sticker/diffusion-256.toml --out runs/sticker/diffusion-256
	$(STAGE) diffusion configs/sticker/diffusion-512.toml --out runs/sticker/diffusion-512
	$(STAGE) distill configs/sticker/distill.toml --out runs/sticker/distill --set model=runs/sticker/diffusion-512/model

clean: ## Remove what was set up
	rm -rf .venv .venv-bench .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

.PHONY: help demo bot test test-slow soak bench lint format browser train sticker clean

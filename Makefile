# Two commands are all that is needed:   make run   and   make test
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
RUN_ARGS ?=
# Two processes, whatever the machine has: each holds torch and models, about 2 GB.
TEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: run test lint bench attack load models openings clean

run: $(READY)            ## set up if needed, start the studio, print its address
	@$(BIN)/python app.py $(RUN_ARGS)

test: $(READY) $(VENV)/.browser   ## set up if needed, run every test
	@$(BIN)/python -m pytest $(TEST_ARGS)

lint: $(READY)           ## ruff on everything, mypy on studio/ and tabs/
	@$(BIN)/ruff check . && $(BIN)/mypy

bench: $(READY)          ## measure side by side, print ratios
	@$(BIN)/python -m tests.benchmarks

LOAD_ARGS ?=

# How many requests each handler of the app gets.
ATTACK ?= 200

attack: $(READY)         ## attack the app with everything in tests/hostile, other inputs each time (an hour)
	@ATTACK=$(ATTACK) $(BIN)/python -m pytest tests/hostile

load: $(READY)           ## thirty clients at once: rightness, speed, turns, memory (three minutes; nothing else should run)
	@$(BIN)/python -m tests.hostile.load $(LOAD_ARGS)

models: $(READY)         ## train the embedded models again, judge them, record the openings (hours on two cores)
	@$(BIN)/python -m trainers.rebuild && $(BIN)/python -m assets.record

openings: $(READY)       ## record again what the tabs open with, from the embedded models as they are (a few minutes)
	@$(BIN)/python -m assets.record

# The environment follows the requirement files: it is filled once and again only when they change. Packages are compiled
# by all cores at once: an interpreter that may not write what it compiles would otherwise take ten seconds more at every start.
# Some packages hold templates that are no Python, so what cannot be compiled is no failure. image-reward, an oracle of the
# tests, pins packages that are long gone and comes without them. bitsandbytes, which one test needs, lies apart: diffusers imports
# it wherever it finds it, a second of every start. It has no wheel for every system.
$(READY): requirements.txt requirements-dev.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Diffusion Studio needs Python 3.11 or newer; set PYTHON=python3.x.")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the packages (several GB the first time) ..."
	@if command -v uv >/dev/null 2>&1; \
	then install="uv pip install --quiet --python $(BIN)/python"; \
	else install="$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile"; fi; \
	$$install -r requirements-dev.txt -c constraints.txt && $$install --no-deps image-reward==1.5 \
	&& { test "$$(uname)" != Linux || $$install --no-deps --target $(VENV)/apart bitsandbytes -c constraints.txt; }
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib $(VENV)/apart >/dev/null 2>&1 || true
	@touch $@

# The browser tests drive a Chromium; one that the system has is used, else Playwright fetches its own.
$(VENV)/.browser: $(READY)
	@command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 \
	|| $(BIN)/playwright install chromium || echo "No Chromium could be installed: the browser tests will be skipped."
	@touch $@

clean:                   ## remove the environment
	rm -rf $(VENV)

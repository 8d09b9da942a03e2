# Every target makes the environment first if it is not there. PROFILE: laptop (default), smoke, gpu, seed (the study's: laptop, smoke, gpu, qwen3).
PROFILE ?= laptop
PYTHON ?= python3.11
PY := .venv/bin/python
export KIT_PROFILE = $(PROFILE)

.PHONY: tutorial test lab study serve agentfabric vllm roleplay notebooks requirements clean

tutorial: .venv/ready  ## run lessons 00 to 06 headless, end with a table, a figure and a transcript
	@$(PY) -m helpers.tutorial

test: .venv/ready  ## all tests, every notebook in the smoke profile included
	@$(PY) -m ruff check .
	@$(PY) -c "from helpers import assets, bfcl; assets.model_dir('smoke'); assets.model_dir('smollm2'); bfcl.load_cases(n=1)"
	@$(PY) -m pytest -n 2 --dist loadfile

lab: .venv/ready  ## JupyterLab on the lessons, on this machine only
	@.venv/bin/jupyter lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

study: .venv/ready  ## every run of the study that has no record yet, its tables and figures (STUDY: "--arms … --seeds …")
	@$(PY) -m helpers.study $(STUDY)

PORT ?= 8000
ENGINE ?= swift
serve: .venv/ready  ## serve the trained run on this machine until Ctrl-C (ENGINE: swift, vllm, swift-vllm; PORT)
	@$(PY) -m helpers.serving --engine $(ENGINE) --port $(PORT)

APP_PORT ?= 7860
APP_LANGUAGE ?= en
agentfabric: .venv/ready .venv-agentfabric/ready  ## the AgentFabric app on the trained run (AGENTFABRIC_SRC: modelscope-agent v0.7.2)
	@$(PY) -m helpers.agentfabric_app $(if $(AGENTFABRIC_SRC),--src "$(AGENTFABRIC_SRC)") --port $(APP_PORT) \
		--language $(APP_LANGUAGE)

roleplay: .venv-roleplay/ready  ## ModelScope-Agent 0.7.2 in an environment of its own

vllm: .venv-vllm/ready  ## vLLM for CPUs in an environment of its own (minutes, 2.6 GB)

notebooks: .venv/ready  ## maintainers: rebuild the notebooks from notebooks/text and execute them in place
	@$(PY) -m helpers.tutorial --in-place

requirements: .venv/ready  ## maintainers: export pyproject.toml's dependencies to requirements.txt
	@$(PY) -m piptools compile --quiet --strip-extras --no-annotate --no-header --no-emit-index-url \
		--no-emit-find-links --extra dev --output-file requirements.txt pyproject.toml
	@sed -i 's/+cpu$$//' requirements.txt  # a local build's label is not part of the pin

clean:  ## forget runs; the environment and downloaded models stay
	rm -rf runs

# Each program that pins its own libraries has its own environment; their lists are complete, hence --no-deps.
.venv-roleplay/ready .venv-agentfabric/ready .venv-vllm/ready: .venv-%/ready: requirements-%.txt
	@echo "Making .venv-$* (once; some minutes) ..."
	@$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

.venv/ready: requirements.txt
	@echo "Making .venv (once; some minutes) ..."
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found. Install Python 3.11, or name yours:" \
		"make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

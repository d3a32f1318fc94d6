# Everything a person types. Each target makes what it needs.
PYTHON ?= python3
VENV := .venv
LABEL_STUDIO_VENV := .venv-labelstudio
LABEL_STUDIO := $(LABEL_STUDIO_VENV)/bin/label-studio
# Many shells export these two; here only `make up HOST=… PORT=…` sets them.
HOST := 127.0.0.1
PORT := 9090

# A file's tests stay together, for they share what is slow to set up.
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile
DATASETS := ../shared/data
MINUTES := 120

# A migrated, empty database, which takes a minute to make; every Label Studio of the tests and the demo copies it.
TEMPLATE := build/label-studio-template-1.23.2

.PHONY: demo up test unit lint base bench bench-learning soak install clean

demo: install $(LABEL_STUDIO_VENV)/.installed ## the whole loop on a Label Studio of its own (ONCE=1: then stop; DATA=folder)
	$(VENV)/bin/python -m underpaint_workers.demo --label-studio $(LABEL_STUDIO) $(if $(DATA),--data "$(DATA)") $(if $(ONCE),--once)

up: install ## Redis, backend and worker, for a Label Studio that runs already (HOST=0.0.0.0 PORT=9090)
	$(VENV)/bin/underpaint up --host "$(HOST)" --port "$(PORT)"

test: $(VENV)/.dev $(TEMPLATE) ## everything, end to end
	$(VENV)/bin/python -m pytest tests/unit tests/training $(SIDE_BY_SIDE)
	$(VENV)/bin/python -m pytest --ignore tests/unit --ignore tests/training

unit: $(VENV)/.dev ## the quick tests: no Label Studio, no browser, next to no training
	$(VENV)/bin/python -m pytest tests/unit $(SIDE_BY_SIDE)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

base: install ## make the base segmenter anew (DATASETS=folder with monet)
	$(VENV)/bin/python -m underpaint_workers.make_base --data "$(DATASETS)"

bench: $(VENV)/.dev ## how fast paintings are predicted, into build/serving.json (QUICK=1: roughly, in a minute)
	PYTHONPATH=tests $(VENV)/bin/python -m bench.serving --data "$(DATASETS)" $(if $(QUICK),--quick)

bench-learning: $(VENV)/.dev ## how well few labels are learned from, into build/learning.json (DATASETS=folder with monet)
	$(VENV)/bin/python tests/bench/learning.py --data "$(DATASETS)/monet"

soak: $(VENV)/.dev $(LABEL_STUDIO_VENV)/.installed ## hours of everything at once, kills included, into build/soak.json (MINUTES=5)
	PYTHONPATH=tests $(VENV)/bin/python -m soak --label-studio $(LABEL_STUDIO) --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

install: $(VENV)/.installed ## the environment in .venv

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(LABEL_STUDIO_VENV)/.installed: docker/label-studio.txt
	$(PYTHON) -m venv $(LABEL_STUDIO_VENV)
	$(LABEL_STUDIO_VENV)/bin/pip install --quiet --requirement docker/label-studio.txt
	touch $@

$(TEMPLATE): | $(LABEL_STUDIO_VENV)/.installed $(VENV)/.installed
	$(VENV)/bin/python -m underpaint_workers.demo.label_studio $(LABEL_STUDIO) $@

clean: ## environments and build products; .demo stays, for it may hold labels made by hand
	rm -rf $(VENV) $(LABEL_STUDIO_VENV) build

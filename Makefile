# Every target works as the first command on a fresh clone: it makes .venv from requirements.lock when that is needed.
# Needed beforehand: Python 3.11 or 3.12, make. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-operation test-gpu lint lock ui serve stop clean-setup

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE :=
# Telemetry is off (pipelines/environment.py sets the same for bare commands).
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export GX_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
# Servers on this machine are reached without a proxy.
comma := ,
space := $(subst ,, )
NO_PROXY := $(subst $(space),$(comma),$(sort $(subst $(comma),$(space),$(NO_PROXY) $(no_proxy)) 127.0.0.1 localhost))
no_proxy := $(NO_PROXY)
export NO_PROXY no_proxy
# uv trusts the machine's certificates, as pip does (proxies and mirrors may have their own)
export UV_SYSTEM_CERTS := true

READY := .venv/.farpose-ready
# Extras of pyproject.toml, such as postgres. They stay until EXTRAS names others; EXTRAS= removes them.
KEPT := $(strip $(shell cat .venv/.farpose-extras 2> /dev/null))
EXTRAS ?= $(KEPT)
KNOWN_EXTRAS := $(patsubst requirements-%.lock,%,$(wildcard requirements-*.lock))
ifneq ($(strip $(EXTRAS)),$(KEPT))
.PHONY: $(READY)
endif
TEST_WORKERS ?= 2
# one thread per worker: two workers with a thread per core each are slower than one
TEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 python -m pytest -n $(TEST_WORKERS) --timeout 900
# a file's tests stay with one worker, so that what they share (a pipeline run, trained models) is made once
BY_FILE := --dist loadfile --no-loadscope-reorder

help: ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  then: .venv/bin/farpose --help"

setup: $(READY) ## make .venv with the exact packages of requirements.lock (EXTRAS: more, such as postgres)

demo: $(READY) ## draw synthetic people, then train, evaluate, compare and register four methods (under 10 minutes on 2 free cores)
	farpose acquire synthetic
	farpose run

test: $(READY) ## run the checks that take minutes (ARGS: more for pytest)
	$(TEST) $(BY_FILE) -m "not slow" $(ARGS)

test-slow: $(READY) ## run the longer checks
	$(TEST) -m slow $(ARGS)

test-operation: $(READY) ## run those of the longer checks with real servers, full disks and kills that take a minute or less each
	$(TEST) $(BY_FILE) -m operation $(ARGS)

test-gpu: $(READY) ## check the training steps on this machine's GPU (without pytest: python3 -m benchmarks.gpu --check)
	python -m pytest --timeout 900 -rs -m gpu $(ARGS)

lint: $(READY) ## run ruff (rules and format), deptry (packages declared and imported) and mypy
	ruff check .
	ruff format --check .
	deptry .
	mypy

lock: .cache/uv ## resolve pyproject.toml again and write requirements.lock
	"$$(cat .cache/uv)" lock
	"$$(cat .cache/uv)" export --quiet --no-emit-project --no-header --output-file requirements.lock
	for extra in postgres; do \
	  "$$(cat .cache/uv)" export --quiet --no-emit-project --no-header --no-annotate --extra "$$extra" > .cache/with-extra; \
	  grep -vxFf requirements.lock .cache/with-extra > "requirements-$$extra.lock"; \
	done

ui: $(READY) ## serve MLflow and Prefect on loopback and print their addresses (MLFLOW_PORT, PREFECT_PORT)
	@python -m pipelines.servers

serve: $(READY) ## start MLflow, Prefect, a worker and the deployments, to stay (MLFLOW_PORT, PREFECT_PORT); docs/operate.md
	@python -m pipelines.serving

stop: $(READY) ## end what `make serve` started
	@python -m pipelines.serving stop

clean-setup: ## remove .venv and the cached uv
	rm -rf .venv .cache/uv .cache/uv-env

# The environment. `uv pip sync` installs exactly the lock (CPU and GPU alike); the project itself is then linked in.
$(READY): requirements.lock $(wildcard $(EXTRAS:%=requirements-%.lock)) pyproject.toml | .cache/uv
	@uv=$$(cat .cache/uv); locks=requirements.lock; \
	for extra in $(EXTRAS); do \
	  test -f "requirements-$$extra.lock" || { echo "EXTRAS: no extra '$$extra'; there are: $(KNOWN_EXTRAS)" >&2; exit 1; }; \
	  locks="$$locks requirements-$$extra.lock"; \
	done; \
	test -x .venv/bin/python || "$$uv" venv --quiet --python "$$(.ci/find-python)" .venv; \
	echo "installing $$(cat $$locks | grep -c '==') packages into .venv ..."; \
	export UV_COMPILE_BYTECODE=1 VIRTUAL_ENV="$(CURDIR)/.venv"; \
	"$$uv" pip sync --quiet --require-hashes $$locks; \
	"$$uv" pip install --quiet --no-deps --no-build-isolation --editable .; \
	echo "$(strip $(EXTRAS))" > .venv/.farpose-extras; \
	touch $@

# The path of a uv: the one on PATH, or one of our own in .cache/.
.cache/uv:
	@mkdir -p .cache; \
	if command -v uv > $@; then exit 0; fi; \
	python=$$(.ci/find-python); \
	if "$$python" -m venv .cache/uv-env 2> /dev/null; then .cache/uv-env/bin/python -m pip install --quiet --disable-pip-version-check uv; \
	else "$$python" -m pip install --quiet --disable-pip-version-check --target .cache/uv-env uv; fi; \
	echo .cache/uv-env/bin/uv > $@

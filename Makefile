# What one does in this checkout. Everything made lives in .venv/ and .run/.

# Where the local stack listens, on 127.0.0.1 (`make up KAFKA_PORT=29092`), and where it keeps its files
export KAFKA_PORT ?= 19092
export KAFKA_CONTROLLER_PORT ?= 19093
export HTTP_PORT ?= 9840
export PROMETHEUS_PORT ?= 19090
export ALERTMANAGER_PORT ?= 19094
export RECEIVERS_PORT ?= 19095
export GRAFANA_PORT ?= 13000
# How many times faster than in the monitoring files that ship alerts become due, at most one scrape a second
export SPEEDUP ?= 30
export KAFKA_HEAP ?= 512m
export RUN_DIR ?= .run
# What the demo plays, how long its view stays after the last event, and whether the stack stays up afterwards (1)
export SCENARIO ?= scenarios/demo.yaml
export DEMO_SECONDS ?= 15
export DEMO_KEEP ?= 0
# How long the soak lasts, and how many records a second it writes
SOAK_MINUTES ?= 60
SOAK_RATE ?= 5000

# How `make test` shares tests among processors, at most four, since each worker has a Kafka broker of its own
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

PYTHON ?= python3
BIN := .venv/bin
STACK := $(BIN)/python -m txninsightd.tools.stack

.DEFAULT_GOAL := help
.PHONY: help venv demo up down watch test test-fast test-full check fix bench soak docs generated clean lock kafka-sums

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

venv: .venv/.complete ## .venv/ with the locked versions and the project itself
	@:

.venv/.complete: setup.cfg pyproject.toml .ci/requirements.lock .ci/venv
	@PYTHON=$(PYTHON) .ci/venv

demo: venv ## the whole stack, with simulated traffic and alerts, live in this terminal; stops all at its end
	@$(STACK) demo

up: venv ## Kafka, the daemon, Prometheus, Alertmanager and their receivers in the background
	@$(STACK) up

down: ## stop all that up or demo started
	@if [ -d "$(RUN_DIR)" ]; then $(MAKE) --no-print-directory venv && $(STACK) down; else echo "nothing runs"; fi

watch: venv ## the live view of the running daemon
	@$(BIN)/python -m txninsightd.tools.watch http://127.0.0.1:$(HTTP_PORT) --alerts "$(RUN_DIR)/log/alerts.jsonl"

test: venv ## all tests, those on a real Kafka broker included; first side by side, then those that must run alone
	@failed=0; \
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not alone and not full" || failed=1; \
	$(BIN)/pytest -m "alone and not full" || failed=1; \
	exit $$failed

test-fast: venv ## the tests that need no broker, on all processors
	@$(BIN)/pytest -n auto --dist worksteal -m "not broker and not slow and not full"

test-full: venv ## all tests in their long form
	@$(BIN)/pytest

check: venv ## lint, format, types, import rules
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: venv ## let ruff mend what it can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: venv ## measure CPU per event, throughput and memory on a preloaded topic, and what a checkpoint costs
	@$(BIN)/python -m tests.bench
	@$(BIN)/python -m tests.bench.checkpoint --out "$(RUN_DIR)/bench-checkpoint.json"

soak: venv ## a steady load (SOAK_MINUTES, SOAK_RATE): does anything grow, and how late are the figures
	@$(BIN)/python -m tests.soak --minutes $(SOAK_MINUTES) --rate $(SOAK_RATE)

docs: venv ## write docs/lifecycle.md anew from the tables in the code
	@$(BIN)/python docs/make_lifecycle.py > docs/lifecycle.md

generated: venv ## write the dashboards and the rules for Kubernetes anew, after a change of what they come from
	@$(BIN)/python -m monitoring.grafana
	@$(BIN)/python monitoring/kubernetes/render.py

clean: down ## stop all and remove what was made, but for .venv/ and the fetched Kafka
	@cd "$(RUN_DIR)" 2>/dev/null && rm -rf bench bench-checkpoint.json demo log monitoring kafka-data prometheus-data alertmanager-data grafana-data state supervisord.conf supervisord.pid txninsight.yaml || true
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

lock: ## write .ci/requirements.lock anew, with the newest versions that setup.cfg allows
	@PYTHON=$(PYTHON) .ci/lock

kafka-sums: venv ## write the sums of Kafka's jars anew, after a change of version in pom.xml
	@$(STACK) sums

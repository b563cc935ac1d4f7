# The commands of this checkout. All generated files are in .venv/ and .run/.

# The local stack's ports on 127.0.0.1 (`make up KAFKA_PORT=29092`), and its directory
export KAFKA_PORT ?= 19092
export KAFKA_CONTROLLER_PORT ?= 19093
export HTTP_PORT ?= 9840
export PROMETHEUS_PORT ?= 19090
export ALERTMANAGER_PORT ?= 19094
export RECEIVERS_PORT ?= 19095
export GRAFANA_PORT ?= 13000
# Alerts fire so many times faster than with the shipped monitoring files; at most one scrape a second
export SPEEDUP ?= 30
export KAFKA_HEAP ?= 512m
export RUN_DIR ?= .run
# The demo's scenario, how long its view stays after the last event, and whether the stack stays up afterwards (1)
export SCENARIO ?= scenarios/demo.yaml
export DEMO_SECONDS ?= 15
export DEMO_KEEP ?= 0
# The duration of the soak test, and its records per second
SOAK_MINUTES ?= 60
SOAK_RATE ?= 5000

# How `make test` shares tests among processors, at most four, since each worker has a Kafka broker of its own
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

PYTHON ?= python3
BIN := .venv/bin
STACK := $(BIN)/python -m txninsightd.tools.stack

.DEFAULT_GOAL := help
.PHONY: help venv demo up down watch test test-fast test-full check fix bench soak docs generated clean lock kafka-sums

help: ## show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

venv: .venv/.complete ## install the locked versions and the project into .venv/
	@:

.venv/.complete: setup.cfg pyproject.toml .ci/requirements.lock .ci/venv
	@PYTHON=$(PYTHON) .ci/venv

demo: venv ## run the whole stack with simulated traffic and alerts, live in this terminal, then stop it
	@$(STACK) demo

up: venv ## start Kafka, the daemon, Prometheus, Alertmanager and their receivers in the background
	@$(STACK) up

down: ## stop everything that up or demo started
	@if [ -d "$(RUN_DIR)" ]; then $(MAKE) --no-print-directory venv && $(STACK) down; else echo "nothing is running"; fi

watch: venv ## show the live view of the running daemon
	@$(BIN)/python -m txninsightd.tools.watch http://127.0.0.1:$(HTTP_PORT) --alerts "$(RUN_DIR)/log/alerts.jsonl"

test: venv ## run all tests, also those on a real Kafka broker: first side by side, then those that must run alone
	@failed=0; \
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not alone and not full" || failed=1; \
	$(BIN)/pytest -m "alone and not full" || failed=1; \
	exit $$failed

test-fast: venv ## run the tests that need no broker, on all processors
	@$(BIN)/pytest -n auto --dist worksteal -m "not broker and not slow and not full"

test-full: venv ## run all tests in their long form
	@$(BIN)/pytest

check: venv ## check lint, format, types and import rules
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: venv ## fix lint and format as far as ruff can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: venv ## measure CPU per event, throughput and memory on a preloaded topic, and the cost of a checkpoint
	@$(BIN)/python -m tests.bench
	@$(BIN)/python -m tests.bench.core --out "$(RUN_DIR)/bench-core.json"
	@$(BIN)/python -m tests.bench.checkpoint --out "$(RUN_DIR)/bench-checkpoint.json"
	@$(BIN)/python -m tests.bench.partitions --json "$(RUN_DIR)/bench-partitions.json"

soak: venv ## run a steady load (SOAK_MINUTES, SOAK_RATE) and report growth and delays
	@$(BIN)/python -m tests.soak --minutes $(SOAK_MINUTES) --rate $(SOAK_RATE)

docs: venv ## generate docs/lifecycle.md from the tables in the code
	@$(BIN)/python docs/make_lifecycle.py > docs/lifecycle.md

generated: venv ## generate the dashboards and the Kubernetes rules after a change of their sources
	@$(BIN)/python -m monitoring.grafana
	@$(BIN)/python monitoring/kubernetes/render.py

clean: down ## stop everything and remove generated files, except .venv/ and the fetched Kafka
	@cd "$(RUN_DIR)" 2>/dev/null && rm -rf bench bench-core.json bench-checkpoint.json demo log monitoring kafka-data prometheus-data alertmanager-data grafana-data state supervisord.conf supervisord.pid txninsight.yaml || true
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

lock: ## update .ci/requirements.lock to the newest versions that setup.cfg allows
	@PYTHON=$(PYTHON) .ci/lock

kafka-sums: venv ## update the checksums of Kafka's jars after a version change in pom.xml
	@$(STACK) sums

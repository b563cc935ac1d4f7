"""`make up` and `make down`: start and stop Kafka, its topics, the daemon, and the monitoring.

The daemon's configuration comes from the demo's scenario: its topics and thresholds. Starting is idempotent. A failed
start stops everything again and shows the end of the log with the cause. Down ends every process that carries the
stack's marker, so nothing stays even if supervisord was killed.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import yaml

from txninsightd.tools.simulation.scenario import BadScenario, Scenario, daemon_config, load_scenario
from txninsightd.tools.stack import StackError, machine, monitoring, processes
from txninsightd.tools.stack.broker import Broker, admin, create_topics
from txninsightd.tools.stack.settings import Settings
from txninsightd.tools.stack.supervision import MARK, Program, Supervisor, render

KAFKA = "kafka"
DAEMON = "txninsightd"
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
POLL_EVERY_S = 0.2


def up(settings: Settings, *extra: Program) -> Supervisor:
    """Start the whole stack and return once all of it answers; `extra` programs are only configured.

    Raises StackError when a port is in use, another stack runs from the same directory, or a program does not start.
    """
    supervisor = Supervisor(settings.run_dir, settings.log_dir)
    scenario = scenario_of(settings.scenario)
    machine.ensure_commands(["java", *monitoring.COMMANDS])
    broker = settings.broker()
    watchers = monitoring.services(settings)
    kafka = Program(name=KAFKA, command=broker.command)
    programs = [kafka, _daemon(settings), *(service.program for service in watchers), *extra]
    config = describe(settings) + render(settings.run_dir, settings.log_dir, programs)
    was_up = supervisor.is_up()
    if was_up:
        _require_same(supervisor, config)
    else:
        # Programs that survived a killed supervisord would hold the ports.
        down(settings)
        machine.require_free(settings.ports)
    try:
        _start(settings, supervisor, broker, scenario, None if was_up else config)
        _start_watchers(supervisor, watchers)
    except BaseException:
        down(settings)
        raise
    print(f"{'already running' if was_up else 'running'}:\n{urls(settings)}")
    return supervisor


def down(settings: Settings) -> list[str]:
    """Stop all processes of this stack, wait for their end, and return their names."""
    found = _processes(settings)
    if not found:
        return []
    stopped = []
    supervisor = Supervisor(settings.run_dir, settings.log_dir)
    if supervisor.is_up():
        stopped = [*supervisor.running(), "supervisord"]
        supervisor.shut_down()
        # supervisord shuts down after it has answered, so wait for the processes that were found before.
        processes.await_end(found, STOP_TIMEOUT_S)
    while left := _processes(settings):
        stopped += [f"left-over process {pid}" for pid in left]
        processes.end(left, grace_s=STOP_TIMEOUT_S / 2)
    return stopped


def _processes(settings: Settings) -> list[int]:
    return processes.marked(MARK, str(settings.run_dir))


def describe(settings: Settings) -> str:
    """The first line of supervisord.conf, which tells apart two stacks of one directory."""
    own = {"SPEEDUP": settings.speedup, "KAFKA_HEAP": settings.heap, "SCENARIO": settings.scenario}
    known = {**settings.ports, **own}
    return "; " + " ".join(f"{name}={value}" for name, value in known.items()) + "\n"


def urls(settings: Settings) -> str:
    """All addresses, one per line."""
    places = {
        "Kafka": settings.bootstrap,
        "API": f"{settings.url}/api/v1/transactions",
        "metrics": f"{settings.url}/metrics",
        "Prometheus": f"{settings.prometheus_url}/alerts",
        "Alertmanager": f"{settings.alertmanager_url}/#/alerts",
        "Grafana": f"{settings.grafana_url}/dashboards" if settings.has_grafana else monitoring.HOW_TO_ADD_GRAFANA,
        "alerts sent": str(settings.record),
    }
    return "\n".join(f"  {name:<13} {place}" for name, place in places.items())


def scenario_of(path: Path) -> Scenario:
    """Load a scenario; StackError with its errors if it is invalid."""
    try:
        return load_scenario(path)
    except BadScenario as error:
        raise StackError(str(error)) from error


def daemon_yaml(settings: Settings, scenario: Scenario) -> str:
    """The daemon's configuration for this stack."""
    own: dict[str, Any] = {
        "kafka": {"client": {"bootstrap.servers": settings.bootstrap}},
        "http": {"listen": f"{machine.HOST}:{settings.http_port}"},
    }
    config = own | daemon_config(scenario)
    config["state"] = {"directory": str(settings.state_dir), **config.get("state", {})}
    head = f"# Generated by make up from {settings.scenario.name}; overwritten at each start.\n"
    return head + yaml.safe_dump(config, sort_keys=False)


def _daemon(settings: Settings) -> Program:
    program = Path(sys.executable).with_name("txninsightd")
    return Program(name=DAEMON, command=[str(program), "--config", str(settings.daemon_config)])


def _require_same(supervisor: Supervisor, config: str) -> None:
    if supervisor.config.read_text() != config:
        first_line = supervisor.config.read_text().splitlines()[0].lstrip("; ")
        raise StackError(f"a stack is already running, with other settings ({first_line}): stop it with make down")


def _start(settings: Settings, supervisor: Supervisor, broker: Broker, scenario: Scenario, config: str | None) -> None:
    # None: the stack runs already, and its files stay.
    if config is not None:
        broker.prepare()
        settings.daemon_config.write_text(daemon_yaml(settings, scenario))
        monitoring.install(settings)
        supervisor.launch(config)
    supervisor.start(KAFKA)
    broker.await_ready(lambda: supervisor.require_alive(KAFKA))
    _create_missing(settings, {name: topic.partitions for name, topic in scenario.topics.items()})
    supervisor.start(DAEMON)
    _await(supervisor, DAEMON, partial(_readiness_problem, settings.url))


def _start_watchers(supervisor: Supervisor, watchers: list[monitoring.Service]) -> None:
    for service in watchers:
        supervisor.start(service.program.name)
    for service in watchers:
        _await(supervisor, service.program.name, partial(_answer_problem, service.ready_url))


def _create_missing(settings: Settings, partitions: Mapping[str, int]) -> None:
    existing = admin(settings.bootstrap).list_topics(timeout=READY_TIMEOUT_S).topics
    missing = {name: count for name, count in partitions.items() if name not in existing}
    if missing:
        create_topics(settings.bootstrap, missing)


def _await(supervisor: Supervisor, name: str, problem: Callable[[], str | None]) -> None:
    """Wait until it is ready and past supervisor's STARTING state, in which supervisor would not restart it."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while (found := problem()) is not None or supervisor.state(name) == "STARTING":
        supervisor.require_alive(name)
        if time.monotonic() > deadline:
            reason = found or "it is starting again"
            raise StackError(
                f"{name} is not ready after {READY_TIMEOUT_S:.0f} s: {reason}; see {supervisor.log_file(name)}"
            )
        time.sleep(POLL_EVERY_S)


def _answer_problem(url: str) -> str | None:
    return None if _answers(url) else f"it does not answer at {url}"


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except HTTPError as error:
        # Prometheus answers 503 until it is ready. The receivers refuse GET, which also is an answer.
        return error.code != HTTPStatus.SERVICE_UNAVAILABLE
    except (OSError, HTTPException):
        return False


def _readiness_problem(url: str) -> str | None:
    """Why the daemon is not ready, in its words."""
    try:
        with urlopen(f"{url}/readyz", timeout=5):
            return None
    except HTTPError as error:
        return ", ".join(json.load(error)["missing"])
    except (OSError, HTTPException):
        return "it does not answer"

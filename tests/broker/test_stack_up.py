"""make up, make down and make demo, for real: the whole stack under supervisor, and nothing left of it."""

import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from tests.harness.waiting import await_that
from txninsightd.tools.stack import StackError, machine, monitoring, processes, up
from txninsightd.tools.stack.broker import admin
from txninsightd.tools.stack.demo import demo
from txninsightd.tools.stack.settings import Settings
from txninsightd.tools.stack.supervision import MARK, Supervisor

WITHOUT_GRAFANA = ["alertmanager", "kafka", "prometheus", "receivers", "txninsightd"]
PORTS = (
    *("KAFKA_PORT", "KAFKA_CONTROLLER_PORT", "HTTP_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT", "RECEIVERS_PORT"),
    "GRAFANA_PORT",
)
# Stands in for the real program, which no Debian has: it answers where its configuration says.
GRAFANA = """\
#!{python}
import sys
from configparser import ConfigParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

assert sys.argv[1:3] == ["server", "--homepath"], sys.argv
config = ConfigParser(interpolation=None)
config.read_string(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()


HTTPServer((config["server"]["http_addr"], int(config["server"]["http_port"])), Handler).serve_forever()
"""
SCENARIO = """\
name: brief
description: A few seconds of healthy, aborted and abandoned orders.
duration_s: 4
observe_after_s: 6
timeout_check_s: 1
rules: {idle_after_s: 3, overdue_after_s: 60, commit_pending_after_s: 30, settle_lateness_s: 1, settle_max_s: 30,
        retry_grace_s: 1, future_tolerance_s: 5}
topics:
  orders: {partitions: 2}
types:
  order:
    topic: orders
    steps: [{name: pay, pause_s: 0.05, lasts_s: 0.1}]
    close_after_s: 0.05
flows:
  shop:
    types: {order: 1}
    arrivals: {rate_per_s: 5, until_s: 3}
    kafka: {per: transaction, producers: 2}
    mix: {healthy: 3, aborted: 1, abandoned: 1}
healthy:
  expected: [{state: closed, outcome: closed, stuck: null, reason: all was committed}]
failures:
  aborted:
    kind: abort
    expected: [{state: aborted, outcome: aborted, reason: its Kafka transaction was aborted}]
  abandoned:
    kind: stuck
    expected: [{state: open, stuck: idle, reason: it fell silent}]
"""


@pytest.fixture(autouse=True)
def no_grafana(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "GRAFANA_HOME", tmp_path / "grafana")
    monkeypatch.setattr(machine, "GRAFANA_PROGRAMS", ("grafana",))


@pytest.fixture
def grafana(no_grafana: None) -> None:
    """A program in Grafana's place."""
    program = machine.GRAFANA_HOME / "bin" / "grafana"
    program.parent.mkdir(parents=True)
    program.write_text(GRAFANA.replace("{python}", sys.executable))
    program.chmod(0o755)


@pytest.fixture
def environment(kafka_libs: Path) -> Iterator[dict[str, str]]:
    """The variables of a stack of the test's own, in a directory with a path short enough for a socket."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        (run_dir / "kafka").symlink_to(kafka_libs.parents[1])
        (run_dir / "brief.yaml").write_text(SCENARIO)
        ports = dict(zip(PORTS, map(str, machine.free_ports(len(PORTS))), strict=True))
        own = {"SCENARIO": str(run_dir / "brief.yaml"), "DEMO_SECONDS": "0", "SPEEDUP": "30"}
        yield {"RUN_DIR": folder, **own, **ports}
        up.down(Settings.from_environment({"RUN_DIR": folder}))


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    return Settings.from_environment(environment)


def ask(url: str) -> Any:
    with urlopen(url, timeout=60) as answer:
        return json.load(answer)


def require_monitored(settings: Settings) -> None:
    """Prometheus scrapes the daemon, has all rules that ship, and knows the Alertmanager."""
    await_that(lambda: ask(f"{settings.prometheus_url}/api/v1/query?query=up%3D%3D1")["data"]["result"], "a scrape")
    groups = ask(f"{settings.prometheus_url}/api/v1/rules")["data"]["groups"]
    files = (monitoring.SHIPPED / "prometheus" / "rules").glob("*.yml")
    shipped = [
        rule for path in files for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]
    ]
    wanted = sorted(rule.get("alert") or rule["record"] for rule in shipped)
    assert sorted(rule["name"] for group in groups for rule in group["rules"]) == wanted
    known = f"{settings.prometheus_url}/api/v1/alertmanagers"
    await_that(lambda: ask(known)["data"]["activeAlertmanagers"], "Prometheus knows the Alertmanager")


def require_nothing_left(settings: Settings) -> None:
    assert processes.marked(MARK, str(settings.run_dir)) == []
    machine.require_free(settings.ports)


def await_noticed(supervisor: Supervisor, dead: int) -> None:
    await_that(lambda: supervisor.pid("txninsightd") != dead, "supervisor has noticed")


def test_up_brings_all_up_and_down_leaves_nothing(
    grafana: None, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor = up.up(settings)
    assert supervisor.running() == sorted([*WITHOUT_GRAFANA, "grafana"])
    with urlopen(f"{settings.url}/readyz", timeout=60) as answer:
        assert answer.status == 200
    assert len(admin(settings.bootstrap).list_topics(timeout=60).topics["orders"].partitions) == 2
    require_monitored(settings)
    assert up.down(settings) == [*sorted([*WITHOUT_GRAFANA, "grafana"]), "supervisord"]
    require_nothing_left(settings)
    said = capsys.readouterr().out
    urls = (settings.url, settings.prometheus_url, settings.alertmanager_url, settings.grafana_url)
    assert [url for url in urls if url not in said] == []


def test_up_twice_says_so_and_mends_what_died(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    supervisor = up.up(settings)
    daemon = supervisor.pid("txninsightd")
    before = {name: supervisor.pid(name) for name in WITHOUT_GRAFANA}
    up.up(settings)
    assert "already running" in capsys.readouterr().out
    assert {name: supervisor.pid(name) for name in WITHOUT_GRAFANA} == before
    os.kill(daemon, signal.SIGKILL)
    await_noticed(supervisor, daemon)
    up.up(settings)
    assert supervisor.pid("txninsightd") not in (0, daemon)


def test_up_with_other_settings_is_refused_and_harms_nothing(settings: Settings, environment: dict[str, str]) -> None:
    supervisor = up.up(settings)
    other = Settings.from_environment({**environment, "HTTP_PORT": str(machine.free_ports(1)[0])})
    with pytest.raises(StackError, match=rf"HTTP_PORT={settings.http_port} .*stop it with make down"):
        up.up(other)
    assert supervisor.running() == WITHOUT_GRAFANA


def test_an_up_that_fails_half_way_says_why_and_leaves_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "daemon_yaml", lambda *_: "no_such_key: 1\n")
    with pytest.raises(StackError, match=r"txninsightd is not running(.|\n)*no_such_key"):
        up.up(settings)
    require_nothing_left(settings)


def test_the_demo_plays_judges_and_stops(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.from_environment(environment, is_demo=True)
    assert demo(settings, environment) == 0
    said = capsys.readouterr().out
    assert "agrees with the simulator on 15 of 15 transactions" in said
    assert "all stopped" in said
    assert re.search(r"^alert: .* pagerduty critical \d+ order newly stuck: idle", said, re.MULTILINE)
    assert re.search(r"^alert: .* pagerduty resolved ", said, re.MULTILINE)
    require_nothing_left(settings)
    assert not Supervisor(settings.run_dir, settings.log_dir).is_up()

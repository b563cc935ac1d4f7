"""Every query of the dashboards and of the rules, asked of a real Prometheus that scraped real daemons.

Four scenarios run side by side at their original speed, each on topics and with a daemon of its own; besides, a child
is killed, a faulty configuration is read, and history is replayed. The run ends as soon as each panel has shown what
filled.py says it must; the tests then look at what was seen while all programs still run.
"""

import math
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.harness.daemon import Daemon
from tests.harness.dashboards import (
    Target,
    annotations,
    dashboards,
    links_of,
    panels,
    resolved,
    rules,
    targets,
    variables,
)
from tests.harness.fixtures import new_broker
from tests.harness.grafana_queries import one_of, substituted
from tests.harness.http import http_status
from tests.harness.paths import PROGRAMS, ROOT
from tests.harness.prometheus import PanelPrometheus, Series
from tests.harness.waiting import HANG_GUARD_S
from tests.monitoring.filled import AT_ZERO, EMPTY, FILLED, MESSY, PAYMENTS, QUIET, SCENARIOS
from txninsightd.tools.stack import machine
from txninsightd.tools.stack.broker import create_topics

LOOK_EVERY_S = 1.0
LINGERING_S = 60.0
"""So long after the last replay the last transactions settle, and panels that look at rates still see it."""
TARGETS = targets()
ALERTS = [rule for rule in rules() if "alert" in rule]
RECORDED = [rule for rule in rules() if "record" in rule]
OBJECTIVE = {"duration_s": 0.6, "ratio": 0.9, "open_age_s": 5}
SELECTOR = re.compile(r"\b((?:\w+:)?txninsight_\w+(?::\w+)?|up)\b(\{[^}]*\})?")
FAULTY = "stuck: {idle_after_s: never}\n"


class Watched:
    """The running daemons by scenario, and the Prometheus that watches them."""

    def __init__(self, daemons: dict[str, Daemon], prometheus: PanelPrometheus) -> None:
        self.daemons = daemons
        self.prometheus = prometheus
        self._since = time.time()

    def seen(self, expression: str, **chosen: str) -> list[Series]:
        """What has been seen from the beginning until now, variables substituted."""
        now = time.time()
        return self.prometheus.range(substituted(expression, now - self._since, **chosen), self._since, now)

    def instance(self, scenario: str) -> str:
        """The label by which a scenario's daemon is chosen."""
        return f"{machine.HOST}:{self.daemons[scenario].port}"

    def is_filled(self, target: Target) -> bool:
        """Whether a query has had what filled.py says it must."""
        scenario = scenario_of(target)
        if scenario is None:
            return target.name in EMPTY or bool(self.seen(target.expr))
        return any_other_than_zero(self.seen(target.expr, instance=self.instance(scenario)))

    def fires(self, alert: dict[str, Any]) -> bool:
        """Whether an alert's condition held at some time."""
        return bool(self.seen(alert["expr"]))


def scenario_of(target: Target) -> str | None:
    """The scenario that fills a query; None where none does."""
    if target.name in AT_ZERO or target.name in EMPTY:
        return None
    return FILLED.get(target.name) or FILLED[target.panel.name]


def any_other_than_zero(found: list[Series]) -> bool:
    """Whether a line ever left zero."""
    return any(math.isfinite(value) and value != 0 for series in found for _, value in series.samples)


# --- The run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """All scenarios played, as far as is needed; everything still runs."""
    directory = tmp_path_factory.mktemp("queries")
    daemons: dict[str, Daemon] = {}
    replays: list[Replay] = []
    with new_broker(directory / "kafka", kafka_libs) as broker:
        try:
            with ThreadPoolExecutor(len(SCENARIOS)) as beside:
                prepared = beside.map(lambda name: prepare(name, directory / name, broker.bootstrap), SCENARIOS)
                daemons.update(zip(SCENARIOS, prepared, strict=True))
            with PanelPrometheus(directory, (daemon.port for daemon in daemons.values())) as prometheus:
                watching = Watched(daemons, prometheus)
                for daemon in daemons.values():
                    daemon.start()
                for daemon in daemons.values():
                    daemon.await_ready()
                files = {name: directory / name / "events.jsonl" for name in SCENARIOS}
                replays += [replay(file, directory / f"{name}.out", broker.bootstrap) for name, file in files.items()]
                sample, said = ROOT / "scenarios" / "sample.jsonl", directory / "sample.out"
                replays.append(replay(sample, said, broker.bootstrap, "--keep-time"))
                disturb(watching, daemons[MESSY])
                await_filled(watching, replays)
                yield watching
        finally:
            for each in replays:
                each.process.kill()
                each.process.wait()
            for daemon in daemons.values():
                daemon.end()


def prepare(name: str, directory: Path, bootstrap: str) -> Daemon:
    """Simulate, make the topics, and set a daemon up for them; it is not started yet."""
    directory.mkdir()
    sections_file = directory / "sections.yaml"
    outputs = ("--out", directory, "--daemon-config", sections_file, "--quiet")
    subprocess.run([PROGRAMS / "txninsight-sim", ROOT / "scenarios" / f"{name}.yaml", *outputs], check=True)
    with (directory / "events.jsonl").open() as events:
        header = yaml.safe_load(events.readline())["header"]
    create_topics(bootstrap, {topic: t["partitions"] for topic, t in header["topics"].items()})
    sections = yaml.safe_load(sections_file.read_text())
    sections["objective"] = OBJECTIVE
    if name == MESSY:
        sections["limits"] = {**sections.get("limits", {}), "label_values": 3}
    return Daemon(directory, bootstrap, sections)


class Replay(NamedTuple):
    """A running txninsight-replay, and the file of what it says."""

    process: subprocess.Popen[bytes]
    output: Path

    def has_ended(self) -> bool:
        """Whether all of its events are written; a failure fails the test here, with its words."""
        code = self.process.poll()
        assert not code, f"{self.output.stem} ended with {code}: {machine.last_lines(self.output.read_text())}"
        return code == 0


def replay(events: Path, output: Path, bootstrap: str, *options: str) -> Replay:
    """Publish a file in its own time, beside everything else; it dies with the thread that began it."""
    replaying = [str(PROGRAMS / "txninsight-replay"), str(events), "--bootstrap", bootstrap, *options]
    command = ["setpriv", "--pdeathsig", "KILL", "--", *replaying]
    with output.open("wb") as said:
        return Replay(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said), output)


def disturb(watching: Watched, daemon: Daemon) -> None:
    """A killed reader, and a faulty configuration, once Prometheus has seen how it was before."""
    instance = watching.instance(MESSY)
    daemon.await_that(lambda: bool(watching.seen(f'txninsight_build_info{{instance="{instance}"}}')), "a scrape")
    os.kill(daemon.pids()["validator-0"], signal.SIGKILL)
    daemon.reload(FAULTY)


def await_filled(watching: Watched, replays: list[Replay]) -> None:
    """Return once nothing is left to wait for: all is filled, or long enough after the last event."""
    quiet = {alert for alert, _ in QUIET}
    empty: list[Target] = list(TARGETS)
    silent = [alert for alert in ALERTS if alert["alert"] not in quiet]
    begun, ended = time.monotonic(), math.inf
    while empty or silent:
        time.sleep(LOOK_EVERY_S)
        empty = [target for target in empty if not watching.is_filled(target)]
        silent = [alert for alert in silent if not watching.fires(alert)]
        if all([replay.has_ended() for replay in replays]):
            ended = min(ended, time.monotonic())
        if time.monotonic() > min(ended + LINGERING_S, begun + 10 * HANG_GUARD_S):
            return


# --- Dashboards -------------------------------------------------------------------------------------------------------


def test_each_query_is_listed_once() -> None:
    names = {target.name for target in TARGETS}
    apart = {*AT_ZERO, *EMPTY}
    assert apart <= names
    assert not set(AT_ZERO) & set(EMPTY)
    assert set(FILLED) <= names | {panel.name for panel in panels()}
    unlisted = [t.name for t in TARGETS if t.name not in {*apart, *FILLED} and t.panel.name not in FILLED]
    assert unlisted == []


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_each_panel_shows_what_its_scenario_did(watched: Watched, target: Target) -> None:
    assert watched.is_filled(target), scenario_of(target) or AT_ZERO[target.name]


def test_each_choice_of_variables_is_understood(watched: Watched) -> None:
    """All of everything, several of each, and one of each, as Grafana writes them."""
    both = one_of(*(watched.instance(name) for name in SCENARIOS[:2]))
    several = {"instance": both, "txn_type": one_of("order", "a.b/(c)"), "cluster": "main"}
    choices: list[dict[str, str]] = [{}, several, {"txn_type": "order"}]
    for target in TARGETS:
        for chosen in choices:
            watched.seen(target.expr, **chosen)


def test_the_variables_offer_what_there_is(watched: Watched) -> None:
    for board in dashboards().values():
        offered = {
            name: _offered(watched, v["definition"]) for name, v in variables(board).items() if "definition" in v
        }
        assert offered["cluster"] == {"main"}
        assert offered["instance"] == {watched.instance(name) for name in SCENARIOS}
        assert {"order", "loan", "card_payment", "payout", "transfer"} <= offered["txn_type"]


def test_a_cluster_narrows_all_down_to_its_daemons(watched: Watched) -> None:
    found = watched.seen('txninsight_ready{cluster=~"$cluster",instance=~"$instance"}', cluster="main")
    assert {series.labels["instance"] for series in found} == {watched.instance(name) for name in SCENARIOS[:2]}


def test_annotations_mark_alerts_and_restarts(watched: Watched) -> None:
    for board in dashboards().values():
        for annotation in annotations(board):
            assert watched.seen(annotation["expr"]), annotation["name"]


def test_exemplars_lead_to_transactions_that_the_daemon_knows(watched: Watched) -> None:
    daemon = watched.daemons[PAYMENTS]
    now = time.time()
    for target in (t for t in TARGETS if t.json["exemplar"]):
        expression = substituted(target.expr, 60, instance=watched.instance(PAYMENTS))
        found = watched.prometheus.data("query_exemplars", query=expression, start=now - 600, end=now)
        ids = [exemplar["labels"]["txn_id"] for series in found for exemplar in series["exemplars"]]
        assert ids, target.name
        assert daemon.transaction(ids[-1])["txn_id"] == ids[-1]


def test_links_of_values_are_answered_by_the_daemon(watched: Watched) -> None:
    followed = set()
    for target in TARGETS:
        for series in watched.seen(target.expr):
            urls = [url for url in links_of(target, series.labels) if url.startswith("http://")]
            followed |= {resolved(url, series.labels) for url in urls}
    assert any("cause=" in url for url in followed)
    assert not any("${" in url for url in followed)
    assert {url: status for url in sorted(followed) if (status := http_status(url)) not in (200, 503)} == {}


# --- Rules ------------------------------------------------------------------------------------------------------------


def test_prometheus_evaluates_every_rule_without_an_error(watched: Watched) -> None:
    groups = watched.prometheus.data("rules")["groups"]
    health = {rule["name"]: (rule["health"], rule.get("lastError", "")) for g in groups for rule in g["rules"]}
    assert health == {rule.get("alert") or rule["record"]: ("ok", "") for rule in rules()}


@pytest.mark.parametrize("rule", RECORDED, ids=lambda rule: rule["record"])
def test_each_recorded_series_is_there(watched: Watched, rule: dict[str, Any]) -> None:
    assert any_other_than_zero(watched.seen(rule["record"]))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
class TestAlert:
    def test_all_that_it_selects_exists(self, watched: Watched, alert: dict[str, Any]) -> None:
        """An alert on a name or a label value that is not exported could never fire."""
        expression = re.sub(r"(?:ignoring|on|without|by) \([^)]*\)", "", alert["expr"])
        selectors = {name + matchers for name, matchers in SELECTOR.findall(expression)}
        assert selectors
        assert [selector for selector in selectors if not watched.seen(selector)] == []

    def test_its_condition_holds_where_a_scenario_brings_it_about(
        self, watched: Watched, alert: dict[str, Any]
    ) -> None:
        quiet = dict(QUIET)
        assert watched.fires(alert) or alert["alert"] in quiet


# --- Following what Grafana follows -----------------------------------------------------------------------------------


def _offered(watched: Watched, definition: str) -> set[str]:
    """What label_values(...) gives."""
    match = re.fullmatch(r"label_values\((.*), (\w+)\)", definition)
    assert match
    return {series.labels[match[2]] for series in watched.seen(match[1]) if match[2] in series.labels}

"""What make up and make demo decide without a broker: settings, the daemon's configuration, when the demo is over."""

import os
import re
import subprocess
from collections.abc import Iterator
from http.client import BadStatusLine
from pathlib import Path

import msgspec
import pytest

from tests.harness.paths import ROOT
from txninsightd.config import load_config
from txninsightd.expose.listing import MOST_LISTED
from txninsightd.tools.receivers import Message
from txninsightd.tools.stack import StackError, demo, machine
from txninsightd.tools.stack.settings import Settings
from txninsightd.tools.stack.supervision import Supervisor
from txninsightd.tools.stack.up import daemon_yaml, describe, scenario_of, urls
from txninsightd.tools.watch import Client, TransactionSummary


@pytest.fixture(autouse=True)
def no_grafana(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "grafana", lambda: None)


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    own = {"KAFKA_PORT": 29092, "HTTP_PORT": 29840, "PROMETHEUS_PORT": 29090, "ALERTMANAGER_PORT": 29094}
    others = {"RUN_DIR": str(tmp_path), "KAFKA_HEAP": "1g", "SPEEDUP": "60"}
    settings = Settings.from_environment({**others, **{name: str(port) for name, port in own.items()}})
    assert settings.ports == own | {"KAFKA_CONTROLLER_PORT": 19093, "RECEIVERS_PORT": 19095}
    assert settings.bootstrap == "127.0.0.1:29092"
    assert settings.speedup == 60
    assert "SPEEDUP=60" in describe(settings)
    assert settings.url == "http://127.0.0.1:29840"
    assert "KAFKA_PORT=29092" in describe(settings)
    assert settings.heap == "1g"


@pytest.mark.parametrize("text", ["", "http", "-1", "0", "65536"])
def test_what_is_no_port_is_an_error_that_names_the_variable(text: str) -> None:
    with pytest.raises(StackError, match=f"^HTTP_PORT={text} is not a port"):
        Settings.from_environment({"HTTP_PORT": text})


@pytest.mark.parametrize("text", ["", "0", "-1", "fast", "1.5"])
def test_a_pace_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(StackError, match=f"^SPEEDUP={text} is not a whole number"):
        Settings.from_environment({"SPEEDUP": text})


def test_grafana_has_a_port_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Grafana       not installed; to get it" in urls(Settings.from_environment({}))
    monkeypatch.setattr(machine, "grafana", lambda: ["grafana"])
    settings = Settings.from_environment({"GRAFANA_PORT": "23000"})
    assert settings.ports["GRAFANA_PORT"] == 23000
    assert "Grafana       http://127.0.0.1:23000/dashboards" in urls(settings)


@pytest.mark.parametrize("scenario", sorted((ROOT / "scenarios").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_daemon_takes_the_configuration_made_for_it(scenario: Path, tmp_path: Path) -> None:
    settings = Settings(run_dir=tmp_path, scenario=scenario, kafka_port=29092, http_port=29840)
    path = tmp_path / "txninsight.yaml"
    path.write_text(daemon_yaml(settings, scenario_of(scenario)))
    config = load_config(path, {})
    assert config.kafka.client["bootstrap.servers"] == "127.0.0.1:29092"
    assert config.http.port == 29840
    assert {topic.name for topic in config.topics} == set(scenario_of(scenario).topics)
    assert config.stuck.idle_after_s == scenario_of(scenario).rules.idle_after_s


def test_a_scenario_that_is_none_is_an_error_that_says_where(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\nnonsense: 1\n")
    with pytest.raises(StackError, match=r"bad\.yaml:2: nonsense"):
        scenario_of(path)


TRUTH = """\
{"txn_id": "a", "state": "closed", "stuck": null, "reason": "all committed", "attempts": 1}
{"txn_id": "b", "state": "open", "stuck": "idle", "reason": "it fell silent"}
{"totals": {"records": {}}}
"""


def test_the_demo_names_whom_the_daemon_judges_wrong(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    path.write_text(TRUTH)
    truth = demo.read_truth(path)
    closed = TransactionSummary(txn_id="a", state="closed")
    idle = TransactionSummary(txn_id="b", state="open", stuck=True, cause="idle")
    assert demo.differences(truth, {"a": closed, "b": idle}) == []
    assert demo.differences(truth, {"a": closed, "b": TransactionSummary(txn_id="b", state="open")}) == [
        "b: should be open, stuck (idle) (it fell silent), the daemon says open"
    ]
    assert demo.differences(truth, {"b": idle}) == ["a: should be closed (all committed), the daemon says nothing"]


def ending_of(
    run_dir: Path, snapshot: Iterator[list[TransactionSummary] | Exception], monkeypatch: pytest.MonkeyPatch
) -> demo.DemoMonitor:
    """Of a demo whose replay is over; the daemon snapshot as said here, one answer after the other."""

    def answer(client: Client, query: str) -> list[TransactionSummary]:
        answered = next(snapshot)
        if isinstance(answered, Exception):
            raise answered
        return answered

    monkeypatch.setattr(Client, "list", answer)
    monkeypatch.setattr(Supervisor, "_call", lambda *_: {"pid": 1, "statename": "EXITED", "exitstatus": 0})
    settings = Settings(run_dir=run_dir, scenario=ROOT / "scenarios" / "demo.yaml")
    settings.demo_dir.mkdir()
    (settings.demo_dir / "truth.jsonl").write_text(TRUTH)
    scenario = msgspec.structs.replace(scenario_of(settings.scenario), observe_after_s=0.0)
    ending = demo.DemoMonitor(settings, scenario, Supervisor(run_dir, settings.log_dir), 0)
    assert not ending.is_done(), "it has just seen the end of the replay"
    return ending


def test_the_demo_asks_again_when_the_last_question_was_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [
        TransactionSummary(txn_id="a", state="closed"),
        TransactionSummary(txn_id="b", state="open", stuck=True, cause="idle"),
    ]
    ending = ending_of(tmp_path, iter([TimeoutError("timed out"), BadStatusLine(""), said]), monkeypatch)
    judged = []
    for _ in range(3):
        ending.is_done()
        judged.append(ending.wrong)
    assert judged == [None, None, []]


def test_the_demo_does_not_wait_for_ever_for_the_last_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ending = ending_of(tmp_path, iter([TimeoutError("timed out")]), monkeypatch)
    monkeypatch.setattr(demo, "ANSWER_WITHIN_S", 0.0)
    with pytest.raises(StackError, match="does not list its transactions: timed out"):
        ending.is_done()


def test_more_transactions_than_the_api_lists_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert demo.MOST_COMPARED == MOST_LISTED
    monkeypatch.setattr(demo, "MOST_COMPARED", 100)
    settings = Settings(run_dir=tmp_path, scenario=ROOT / "scenarios" / "checkout.yaml")
    with pytest.raises(
        StackError, match=r"checkout\.yaml makes \d+ transactions, and the demo can compare 100 at most"
    ):
        demo.simulate(settings)


def page(action: str) -> Message:
    payload = {"summary": "1 order newly stuck: idle", "severity": "critical", "source": "127.0.0.1:9840"}
    return Message(at=1000.0, receiver="pagerduty", body={"event_action": action, "payload": payload})


def test_a_stuck_transaction_must_page_and_be_resolved(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    path.write_text(TRUTH)
    truth = demo.read_truth(path)
    ticket = Message(at=1000.0, receiver="slack", body={"attachments": [{"fallback": "late", "color": "good"}]})
    assert demo.missing_alerts(truth, [ticket]) == "a transaction was stuck, and no page and no resolve arrived"
    assert demo.missing_alerts(truth, [page("trigger")]) == "a transaction was stuck, and no resolve arrived"
    assert demo.missing_alerts(truth, [page("trigger"), page("resolve")]) is None
    assert demo.missing_alerts({"a": truth["a"]}, []) is None, "nothing was stuck"
    assert demo.summarize_alerts([ticket, page("trigger"), page("trigger")]) == (
        "Alerts sent: pagerduty 2 that fired and 0 that were resolved, slack 0 that fired and 1 that were resolved."
    )


def make(*arguments: str) -> str:
    """What make prints, as on the command line footer when make runs the tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_make_help_has_a_line_for_each_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert [line.split()[1] for line in make("help").splitlines()] == phony[1].split()
    wanted = "venv demo test test-fast test-full check fix up down clean bench"
    assert set(wanted.split()) <= set(phony[1].split())


def test_make_hands_the_ports_on() -> None:
    said = make("--dry-run", "--always-make", "watch", "HTTP_PORT=29840", "RUN_DIR=elsewhere")
    settings = Settings.from_environment({"RUN_DIR": "elsewhere"})
    assert f'http://127.0.0.1:29840 --alerts "{settings.record.relative_to(Path.cwd())}"' in said


def test_make_and_the_stack_agree_on_defaults() -> None:
    exported = dict(re.findall(r"^export (\w+) \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    settings = Settings.from_environment({})
    assert settings.ports.items() <= {name: int(value) for name, value in exported.items() if "PORT" in name}.items()
    assert settings == Settings.from_environment(exported)

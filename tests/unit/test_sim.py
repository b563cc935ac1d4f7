"""txninsight-sim as a program: the same bytes each time, valid lines, clear complaints, and scenarios that hold.

All scenarios that ship are played here; what they come to is what they say beside each failure, every outcome that they
name does occur, and none of their transactions is borderline.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.harness.paths import ROOT
from txninsightd.config import ConfigError, load_config
from txninsightd.tools.events_file import BadLine, PlainEvents, read_lines
from txninsightd.tools.sim import main
from txninsightd.tools.simulation.scenario import BadScenario, load_scenario, parse_scenario
from txninsightd.tools.simulation.truth import meets

SCENARIOS = sorted((ROOT / "scenarios").glob("*.yaml"))
CHECKOUT = ROOT / "scenarios" / "checkout.yaml"
HANG_GUARD_S = 120

Lines = list[dict[str, Any]]


def lines_of(path: Path) -> Lines:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def played(scenario: Path, out: Path, *options: str) -> tuple[Lines, Lines, dict[str, Any]]:
    """The events, the truth of each transaction, and the totals."""
    assert main([str(scenario), "--out", str(out), "--quiet", *options]) == 0
    *truth, totals = lines_of(out / "truth.jsonl")
    return lines_of(out / "events.jsonl"), truth, totals["totals"]


# --- The program ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_same_seed_and_scenario_give_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    scenario = ROOT / "scenarios" / "messy-input.yaml"
    written = []
    for hash_seed in ("1", "2"):
        out = tmp_path / hash_seed
        command = [sys.executable, "-m", "txninsightd.tools.sim", str(scenario), "--out", str(out)]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        subprocess.run(command, env=environment, check=True, timeout=HANG_GUARD_S, capture_output=True)
        written.append(((out / "events.jsonl").read_bytes(), (out / "truth.jsonl").read_bytes()))
    assert written[0] == written[1]


def test_another_seed_gives_other_traffic(tmp_path: Path) -> None:
    one, _, _ = played(CHECKOUT, tmp_path / "1", "--seed", "1")
    two, _, _ = played(CHECKOUT, tmp_path / "2", "--seed", "2")
    assert one[0]["header"]["seed"] == 1
    assert one[1:] != two[1:]


def test_the_sample_that_is_checked_in_is_what_comes_out(tmp_path: Path) -> None:
    played(ROOT / "scenarios" / "payments-with-aborts.yaml", tmp_path, "--transactions", "20", "--seed", "4")
    sample = ROOT / "scenarios" / "sample"
    assert (tmp_path / "events.jsonl").read_bytes() == sample.with_suffix(".jsonl").read_bytes()
    assert (tmp_path / "truth.jsonl").read_bytes() == sample.with_suffix(".truth.jsonl").read_bytes()


def test_limits_on_the_command_line_go_over_the_scenario(tmp_path: Path) -> None:
    _, truth, totals = played(CHECKOUT, tmp_path / "a", "--transactions", "17")
    assert len(truth) == totals["transactions"] == 17
    scenario = tmp_path / "endless.yaml"
    scenario.write_text(CHECKOUT.read_text().replace(", until_s: 42", ""))
    events, _, _ = played(scenario, tmp_path / "b", "--duration", "9")
    opened = [e["at"] for e in events if e.get("value", {}).get("event") == "transaction_open"]
    assert 6 < max(opened) - 1_750_000_000 < 9


@pytest.mark.slow
def test_an_hour_of_traffic_ends_an_hour_later(tmp_path: Path) -> None:
    scenario = tmp_path / "endless.yaml"
    scenario.write_text(CHECKOUT.read_text().replace(", until_s: 42", "").replace("rate_per_s: 4", "rate_per_s: 0.2"))
    events, truth, totals = played(scenario, tmp_path, "--duration", "3600")
    assert 3590 < events[-1]["at"] - events[0]["header"]["epoch"] < 3620
    assert len(truth) > 4000
    assert totals["borderline"] == []


def test_events_can_go_to_standard_output(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "txninsightd.tools.sim", str(CHECKOUT), "--events", "-", "--transactions", "3"]
    done = subprocess.run(command, cwd=tmp_path, check=True, timeout=HANG_GUARD_S, capture_output=True)
    assert all(json.loads(line) for line in done.stdout.splitlines())
    assert b"3 transactions" in done.stderr
    assert b"\x1b" not in done.stderr  # no progress bar without a terminal
    assert [path.name for path in tmp_path.iterdir()] == ["truth.jsonl"]


@pytest.mark.parametrize(
    "option", [["--transactions", "0"], ["--duration", "-3"], ["--transactions", "2.5"], ["--seed", "x"]]
)
def test_a_bad_option_is_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(CHECKOUT), *option])
    assert stop.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main([str(CHECKOUT), "--out", str(tmp_path / "file" / "below")]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["--events", "--truth"])
def test_a_full_disk_is_told_in_words(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(CHECKOUT), "--out", str(tmp_path), target, "/dev/full"]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_ctrl_c_ends_it_without_a_traceback(tmp_path: Path) -> None:
    scenario = tmp_path / "endless.yaml"
    scenario.write_text(CHECKOUT.read_text().replace(", until_s: 42", ""))
    command = [sys.executable, "-m", "txninsightd.tools.sim", str(scenario), "--duration", "1e9", "--events", "-"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=HANG_GUARD_S)
    assert process.returncode == 130
    assert error.decode() == "txninsight-sim: stopped; the files are incomplete\n"


# --- The scenarios that ship ------------------------------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=[pytest.param(p, id=p.stem, marks=pytest.mark.slow if p.stem == "oracle" else ()) for p in SCENARIOS],
)
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Lines, Lines, dict[str, Any]]:
    scenario = request.param
    return scenario, *played(scenario, tmp_path_factory.mktemp(scenario.stem))


Run = tuple[Path, Lines, Lines, dict[str, Any]]


def test_lines_are_in_order_and_valid(run: Run) -> None:
    _, events, _, totals = run
    schema = json.loads((ROOT / "txninsightd" / "tools" / "events.schema.json").read_text())
    is_valid = Draft202012Validator(schema).is_valid
    assert all(is_valid(line) for line in events[:3000])
    moments = [line["at"] for line in events[1:]]
    assert moments == sorted(moments)
    records = [line for line in events if "topic" in line]
    assert len(records) == sum(n for results in totals["records"].values() for n in results.values())


def test_the_replayer_takes_every_line(run: Run) -> None:
    _, events, _, _ = run
    written = [json.dumps(line).encode() for line in events[:20_000]]
    read = [line for _, line in read_lines(written, PlainEvents())]
    assert not [line for line in read if isinstance(line, BadLine)]
    assert len(read) == len(written)


def test_each_outcome_that_a_scenario_names_occurs(run: Run) -> None:
    path, _, truth, _ = run
    if path.stem == "oracle":
        return  # it names what may become of a transaction behind the hanging one; not all of it does with one seed
    scenario = load_scenario(path)
    for failure in (None, *scenario.failures):
        lines = [line for line in truth if line["failure"] == failure]
        for expected in scenario.expected_of(failure):
            assert any(meets(line, expected) for line in lines), (failure, expected.reason)


def test_no_transaction_is_borderline(run: Run) -> None:
    *_, totals = run
    assert totals["borderline"] == []


def test_a_producer_has_one_kafka_transaction_at_a_time_and_none_after_its_crash(run: Run) -> None:
    _, events, _, _ = run
    open_, dead = set(), set()
    for line in events[1:]:
        producer, word = line["producer"], line.get("kafka")
        assert producer not in dead
        if word == "begin":
            assert producer not in open_
            open_.add(producer)
        elif word is not None:
            open_.remove(producer)
            dead.update({producer} if word == "crash" else ())
    transactional = {line["producer"] for line in events if "kafka" in line}
    assert all(line["producer"] in transactional or "kafka" not in line for line in events[1:])
    assert not open_


def test_totals_are_the_sums_of_the_lines(run: Run) -> None:
    _, _, truth, totals = run
    assert totals["transactions"] == len(truth)
    assert totals["late_events"] == sum(line["late_events"] for line in truth)
    finished = sum(row["count"] for row in totals["finished"])
    assert finished == sum((line["outcome"] is not None) + len(line["earlier_outcomes"]) for line in truth)
    assert sum(row["count"] for row in totals["stuck_total"]) == sum(len(line["causes"]) for line in truth)
    assert sum(row["count"] for row in totals["live_stuck"]) == sum(line["stuck"] is not None for line in truth)
    named = [anomaly for line in truth for anomaly in line["anomalies"]] + ["late_event"] * totals["late_events"]
    assert totals["anomalies"] == {name: named.count(name) for name in set(named)}


def test_the_daemon_takes_the_config_that_goes_with_a_scenario(run: Run, tmp_path: Path) -> None:
    path, *_ = run
    target = tmp_path / "daemon.yaml"
    played(path, tmp_path, "--daemon-config", str(target), "--transactions", "1")
    config = load_config(target, {})
    scenario = load_scenario(path)
    assert {topic.name for topic in config.topics} == set(scenario.topics)
    assert config.state.retry_grace_s == scenario.rules.retry_grace_s
    for name in scenario.types:
        own = config.thresholds(name)
        assert (own.idle_after_s, own.overdue_after_s, own.commit_pending_after_s) == scenario.thresholds(name)


def test_scenarios_keep_to_their_size(run: Run) -> None:
    path, events, truth, _ = run
    lasts = events[-1]["at"] - events[0]["header"]["epoch"]
    if path.stem not in ("demo", "oracle"):
        assert 40 < lasts < 60
        assert 100 <= len(truth) <= 400
    assert lasts < 150
    assert load_scenario(path).observe_after_s <= 20


def test_the_oracle_run_is_large_and_ends_with_one_hanging_transaction(run: Run) -> None:
    path, events, truth, totals = run
    if path.stem != "oracle":
        return
    assert sum(n for results in totals["records"].values() for n in results.values()) >= 100_000
    assert totals["kafka"]["crash"] == 1
    assert len({line["producer"] for line in events[1:]}) <= 16
    assert len({(line["topic"], line["partition"]) for line in events if "topic" in line}) == 6
    assert 0.06 < totals["kafka"]["abort"] / totals["kafka"]["begin"] < 0.12
    assert sum(line["state"] == "tentatively_closed" for line in truth) > 1


# --- Bad scenarios ----------------------------------------------------------------------------------------------------


def broken(change: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    path = tmp_path / "bad.yaml"
    path.write_text(change(CHECKOUT.read_text()))
    assert main([str(path), "--out", str(tmp_path)]) == 2
    assert not (tmp_path / "events.jsonl").exists()
    return [line.removeprefix(f"{tmp_path}/") for line in capsys.readouterr().err.splitlines()]


DELAYS = (
    "a number of seconds, or one of {uniform: [low, high]}, {exponential: {mean, min, max}}, "
    "{lognormal: {median, sigma, min, max}}"
)
FAULTS: list[tuple[str, str, str]] = [
    ("colocated: true", "colocate: true", "bad.yaml:7: colocate: unknown key, expected one of: name, description"),
    ("seed: 20250615", "seed: soon", 'bad.yaml:5: seed: expected a whole number, found "soon"'),
    ("duration_s: 45", "duration_s: 0", "bad.yaml:6: duration_s: expected a number above 0, found 0"),
    ("  retry_grace_s: 3\n", "", "bad.yaml:12: rules: expected the key 'retry_grace_s', which is missing"),
    ("close_after_s: 0.05", "close_after_s: [1]", f"close_after_s: expected {DELAYS}, found [1]"),
    ("kind: stuck", "kind: stack", "failures.cancelled.kind: expected one of stuck, slow, abort"),
    (
        "wakes_after_s:",
        "wake_after_s:",
        "wake_after_s: unknown key, expected one of: kind, after_events, wakes_after_s, expected",
    ),
    (
        "types: {checkout: 1}",
        "types: {checkin: 1}",
        "flows.phone.types.checkin: expected a name from 'types': checkout",
    ),
    (
        "cancelled: 1}",
        "gone: 1}",
        "flows.web.mix.gone: expected 'healthy' or a name from 'failures': cancelled, abandoned",
    ),
    ("{healthy: 20, abandoned: 1}", "{healthy: 0}", "flows.phone.mix: expected at least one card, as in 'healthy: 1'"),
    (
        "topic: shop.checkout\n    outliers",
        "topic: shop\n    outliers",
        "types.checkout.topic: expected a name from 'topics'",
    ),
    (
        "{partitions: 4}",
        "{partitions: 4, mapping: {step: {header: x-step}}}",
        "bad.yaml:22: topics.shop.checkout.mapping.step.header: unknown key, expected one of: path, const",
    ),
    (
        "{partitions: 4}",
        "{partitions: 4, mapping: {ts: {header: x-time}}}",
        "bad.yaml:22: topics.shop.checkout.mapping.ts.header: unknown key, expected one of: path",
    ),
    ("seed: 20250615", "seed: 1\nseed: 2", "bad.yaml:6: seed: expected once, found again"),
    ("seed: 20250615", "seed: {", "expected YAML:"),
    ("description:", "description: &loop [*loop]\nx:", "expected YAML, found an anchor inside itself"),
]


@pytest.mark.parametrize(("good", "bad", "complaint"), FAULTS, ids=[bad for _, bad, _ in FAULTS])
def test_a_bad_scenario_is_refused_by_file_line_and_key(
    good: str, bad: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complaints = broken(lambda text: text.replace(good, bad, 1), tmp_path, capsys)
    assert any(complaint in line for line in complaints), complaints
    assert all(line.startswith("bad.yaml:") for line in complaints)


def is_refused(load: Callable[[], object]) -> bool:
    try:
        load()
    except (BadScenario, ConfigError):
        return True
    return False


FORMS = ("a.b", {"path": "a.b"}, {"const": "step_open"}, {"key": True}, {"header": "x-id"}, {})


@pytest.mark.parametrize("form", FORMS, ids=json.dumps)
@pytest.mark.parametrize("field", ["event", "txn_id", "ts", "txn_type", "step", "status"])
def test_a_scenario_maps_a_field_from_wherever_the_daemon_does(field: str, form: object, tmp_path: Path) -> None:
    topic = {"name": "shop.checkout", "mapping": {field: form}}
    scenario = yaml.safe_load(CHECKOUT.read_text())
    scenario["topics"]["shop.checkout"]["mapping"] = topic["mapping"]
    config = tmp_path / "daemon.yaml"
    config.write_text(json.dumps({"kafka": {"client": {"bootstrap.servers": "127.0.0.1:9092"}}, "topics": [topic]}))
    by_daemon = is_refused(lambda: load_config(config, {}))
    assert is_refused(lambda: parse_scenario(json.dumps(scenario), "scenario")) == by_daemon


def test_every_fault_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complaints = broken(
        lambda text: text.replace("idle_after_s: 6", "idle_after_s: x").replace("pay,", "'',"), tmp_path, capsys
    )
    assert len(complaints) == 2


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"", b"[]", b"just text"])
def test_what_is_no_scenario_at_all_is_refused(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.yaml"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_kafka_transaction_that_outlives_its_time_out_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "scenarios" / "payments-with-aborts.yaml").read_text()
    path = tmp_path / "slow.yaml"
    path.write_text(text.replace("transaction_timeout_s: 60", "transaction_timeout_s: 2"))
    assert main([str(path), "--out", str(tmp_path)]) == 2
    assert "raise transaction_timeout_s" in capsys.readouterr().err


def test_a_truth_that_the_scenario_does_not_expect_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(CHECKOUT.read_text().replace("stuck: idle, causes: [idle]", "stuck: overdue, causes: [overdue]"))
    assert main([str(path), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "(abandoned) came to" in error
    assert '"causes":["idle"]' in error

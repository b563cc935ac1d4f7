"""Two that share no code must agree: the simulator's truth, and the daemon's core fed as ideal readers would feed it.

Each scenario's lines are laid into a log with real offsets, markers of commits and aborts included. A monitor and a
validator read each partition in steps of virtual time, in random order, lagging by up to some two seconds, which is
what a real replay has. Then every transaction, and every counter, must be as truth.jsonl says. No Kafka, no waiting;
the same comparison over a real broker is made elsewhere.
"""

import json
import random
from base64 import b64decode
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.harness.core.core import Core
from tests.harness.paths import ROOT
from txninsightd.config import Config, load_config
from txninsightd.core.decoding import Decoded, Decoder
from txninsightd.core.figures import Figures
from txninsightd.core.labels import UNNAMED
from txninsightd.core.lifecycle import attempts_of
from txninsightd.core.rules import Rules
from txninsightd.tools.sim import main
from txninsightd.vocabulary import Coverage, Discovery, Mapping, PartitionRef, PartitionStart, Sightings

JUDGED = ["checkout", "payments-with-aborts", "stuck-orders", "hanging-producer", "messy-input", "demo"]
STEP_S = 0.4
SEEN_PER_STEP = 0.6


class Delivery:
    """One Kafka transaction: how it ended, and when."""

    def __init__(self) -> None:
        self.ended_at = float("inf")
        self.commits = False
        self.firsts: dict[PartitionRef, int] = {}


@dataclass
class Entry:
    """One offset: a record, or a marker (`line` None)."""

    at: float
    line: dict[str, Any] | None
    delivery: Delivery | None


@dataclass
class Log:
    """One partition, and how far each view has read it."""

    ref: PartitionRef
    decoder: Decoder
    entries: list[Entry] = field(default_factory=list)
    open: list[Delivery] = field(default_factory=list)
    sighted: int = 0
    covered: int = 0

    def end(self, now: float) -> int:
        end = self.sighted
        while end < len(self.entries) and self.entries[end].at <= now:
            end += 1
        return end

    def stable(self, now: float) -> int:
        firsts = [d.firsts[self.ref] for d in self.open if d.ended_at > now]
        end = self.covered
        while end < len(self.entries) and self.entries[end].at <= now:
            end += 1
        return min([end, *firsts])


def laid_out(lines: list[dict[str, Any]], config: Config, rng: random.Random) -> dict[PartitionRef, Log]:
    """The lines as logs. Crashed producers' Kafka transactions are aborted after the time-out, within a second."""
    header = lines[0]["header"]
    topics = {t.name: t.mapping or Mapping() for t in config.topics}
    tolerance = config.events.future_tolerance_s
    logs = {
        PartitionRef(name, i): Log(PartitionRef(name, i), Decoder(topics[name], config.limits.value_bytes, tolerance))
        for name, facts in header["topics"].items()
        for i in range(facts["partitions"])
    }
    endings: list[tuple[float, Delivery, bool]] = []
    began: dict[str, tuple[Delivery, float | None]] = {}
    appended: list[tuple[float, PartitionRef, Entry]] = []
    for line in lines[1:]:
        word, producer, at = line.get("kafka"), line["producer"], line["at"]
        if word == "begin":
            began[producer] = (Delivery(), None)
        elif word is not None:
            delivery, first_at = began.pop(producer)
            if word != "crash":
                endings.append((at, delivery, word == "commit"))
            elif first_at is not None:
                endings.append((first_at + header["transaction_timeout_s"] + rng.uniform(0, 1), delivery, False))
        else:
            delivery, first_at = began.get(producer, (None, None))
            if delivery is not None and first_at is None:
                began[producer] = (delivery, at)
            ref = PartitionRef(line["topic"], line["partition"])
            appended.append((at, ref, Entry(at, line, delivery)))
            if delivery is not None:
                delivery.firsts.setdefault(ref, -1)
    for at, delivery, commits in endings:
        delivery.ended_at, delivery.commits = at, commits
        appended += [(at, ref, Entry(at, None, delivery)) for ref in delivery.firsts]
    for _, ref, entry in sorted(appended, key=lambda a: a[0]):
        log = logs[ref]
        if entry.delivery is not None and entry.delivery.firsts[ref] < 0:
            entry.delivery.firsts[ref] = len(log.entries)
            log.open.append(entry.delivery)
        log.entries.append(entry)
    return logs


def sightings(log: Log, now: float) -> Sightings:
    """What the monitor would send that has read everything up to now."""
    to = log.end(now)
    events, results = [], Counter[str]()
    low = 0.0
    for offset in range(log.sighted, to):
        line = log.entries[offset].line
        if line is None:
            continue
        record_ts = round(line["at"], 3)
        low = record_ts if not low else min(low, record_ts)
        decoded = log.decoder.decode(*as_sent(line), record_ts)
        results["ok" if isinstance(decoded, Decoded) else decoded.value] += 1
        if isinstance(decoded, Decoded):
            events.append((offset, decoded, record_ts))
    log.sighted = to
    return Sightings(
        log.ref.topic,
        log.ref.partition,
        to,
        now,
        now,
        low,
        [tuple(d.signature) for _, d, _ in events],
        [o for o, _, _ in events],
        [d.txn_id for _, d, _ in events],
        list(range(len(events))),
        [d.ts for _, d, _ in events],
        [r for _, _, r in events],
        [],
        dict(results),
        to,
        0,
    )


def as_sent(line: dict[str, Any]) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]:
    """Value, key and headers as they would stand in the record."""
    value = json.dumps(line["value"]).encode() if "value" in line else None
    if "raw" in line:
        value = b64decode(line["raw"])
    headers: list[tuple[str, bytes | None]] = [(k, v.encode()) for k, v in line.get("headers", {}).items()]
    return value, line["key"].encode(), headers


def coverage(log: Log, now: float) -> Coverage:
    """What the validator would send that has read everything up to the last stable offset of now."""
    start, to = log.covered, log.stable(now)
    runs: list[int] = []
    for offset in range(start, to):
        entry = log.entries[offset]
        if entry.line is None or (entry.delivery is not None and not entry.delivery.commits):
            continue
        if runs and runs[-1] == offset:
            runs[-1] = offset + 1
        else:
            runs += [offset, offset + 1]
    log.covered = to
    return Coverage(log.ref.topic, log.ref.partition, start, to, now, now, runs, [], to, to)


def watched(logs: dict[PartitionRef, Log], config: Config, begin: float, until: float, rng: random.Random) -> Core:
    """The ledger after ideal but lagging readers have watched it all."""
    bounds, most_labels = config.metrics.duration_buckets_s, config.limits.label_values
    core = Core(rules_of(config), bounds=bounds, most_labels=most_labels)
    present: dict[str, list[int]] = {}
    for ref in logs:
        present.setdefault(ref.topic, []).append(ref.partition)
    found = [PartitionStart(ref.topic, ref.partition, 0) for ref in logs]
    now = begin
    while now < until:
        now = min(now + STEP_S, until)
        core.apply(Discovery(now, found, present, []))
        calls = [(read, log) for log in logs.values() for read in (sightings, coverage)]
        rng.shuffle(calls)
        for read, log in calls:
            if rng.random() > SEEN_PER_STEP:
                continue
            core.apply(read(log, now), now)
        core.settle(now)
        core.tick(now)
    return core


def rules_of(config: Config) -> Rules:
    state, limits = config.state, config.limits
    return Rules(
        config.events.colocated,
        state.settle_lateness_s,
        state.settle_max_s,
        state.retry_grace_s,
        state.linger_s,
        state.remember_s,
        limits.lingering,
        limits.remembered_ids,
        config.stuck,
        config.transaction_types,
    )


def seen(core: Core) -> dict[str, dict[str, Any]]:
    """Every transaction as the daemon would show it, in the words of truth.jsonl."""
    shown = {}
    for finished in core.archive.lingering.values():
        shown[finished.txn.txn_id] = {
            "outcome": finished.outcome,
            "stuck": None,
            "causes": list(finished.txn.causes),
            "attempts": finished.attempts,
            "duration_s": finished.kpis.duration_s,
            "status": finished.kpis.status,
            "anomalies": sorted(finished.kpis.anomalies),
            "partial": finished.txn.partial,
            "txn_type": finished.txn.txn_type,
            "events": len(finished.life),
        }
    for txn in core.live.values():
        life = core.life(txn)
        shown[txn.txn_id] = {
            "state": txn.state,
            "outcome": None,
            "stuck": txn.cause,
            "causes": list(txn.causes),
            "attempts": attempts_of(life),
            "duration_s": None,
            "status": None,
            "anomalies": [],
            "partial": txn.partial,
            "txn_type": txn.txn_type,
            "events": len(life),
        }
    return shown


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", JUDGED)
def test_truth_and_core_agree(name: str, seed: int, tmp_path: Path) -> None:
    scenario, settings = ROOT / "scenarios" / f"{name}.yaml", tmp_path / "daemon.yaml"
    assert main([str(scenario), "--out", str(tmp_path), "--quiet", "--daemon-config", str(settings)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_bytes().splitlines()]
    *truth, last = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_bytes().splitlines()]
    config, rng = load_config(settings, {}), random.Random(seed)
    begin = lines[0]["header"]["epoch"] - 5
    core = watched(laid_out(lines, config, rng), config, begin, last["totals"]["judged_at"], rng)
    shown = seen(core)
    assert shown.keys() == {line["txn_id"] for line in truth}
    differences = [d for line in truth if (d := difference(line, shown[line["txn_id"]]))]
    assert not differences
    compare_counters(last["totals"], core.figures)


def difference(line: dict[str, Any], shown: dict[str, Any]) -> str | None:
    for key, value in shown.items():
        if key == "duration_s" and value is not None and line[key] is not None:
            if abs(value - line[key]) > (1e-5 if line["duration_exact"] else 2e-3):
                return f"{line['txn_id']}: {key} is {value}, truth {line[key]}"
        elif value != line[key]:
            return f"{line['txn_id']} ({line['failure']}): {key} is {value}, truth {line[key]}"
    return None


def compare_counters(totals: dict[str, Any], figures: Figures) -> None:
    def rows(name: str) -> dict[tuple[str, ...], int]:
        return {tuple(v or UNNAMED for k, v in row.items() if k != "count"): row["count"] for row in totals[name]}

    assert rows("opened") == {(k,): n for k, n in figures.opened.items()}
    assert rows("finished") == +figures.finished
    assert rows("stuck_total") == +figures.stuck
    assert totals["anomalies"] == +figures.anomalies
    assert rows("live") == figures.gauges.live
    assert rows("live_stuck") == figures.gauges.stuck
    partial = {(k,): n for k, n in figures.gauges.partial.items()}
    assert {k: n for k, n in rows("live_partial").items() if n} == partial
    read = Counter({(topic, r): n for topic, results in totals["records"].items() for r, n in results.items()})
    assert read == +Counter({(t, r): n for (view, t, r), n in figures.records.items() if view == "monitor"})
    for row in totals["durations"]:
        histogram = figures.durations[row["txn_type"]]
        assert sum(histogram.counts) == row["count"]
        assert histogram.sum == pytest.approx(row["sum_s"], abs=0.05)
    for name, kept in (("step_durations", figures.step_durations), ("step_gaps", figures.step_gaps)):
        for row in totals[name]:
            assert sum(kept[row["txn_type"], row["step"]].counts) == row["count"]
            assert kept[row["txn_type"], row["step"]].sum == pytest.approx(row["sum_s"], abs=0.05)

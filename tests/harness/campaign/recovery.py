"""How long the daemon needs to be ready again after its aggregator is killed, and where that time goes.

The parent must notice, wait out the back-off and fork; the aggregator restores its checkpoint and listens; the readers
start their Kafka clients, are assigned what follows the checkpoint, and must have read up to where the topics ended.
What is taken from outside is what /readyz says is missing, look by look; what from inside, the moments in the log.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from tests.harness.daemon import Daemon
from tests.harness.json_log import LogTail, moment_of
from tests.harness.kafka import publish
from tests.harness.processes import usage

LOOK_EVERY_S = 0.01
HANG_GUARD_S = 50.0
STEPS = {
    ("child_died", "aggregator"): "the parent notices",
    ("child_started", "aggregator"): "back-off, fork",
    ("resumed", "aggregator"): "imports, restoring the checkpoint",
    ("http_listening", "aggregator"): "listening",
    ("partitions_assigned", "monitor-0"): "the monitor's Kafka client is there and assigned",
    ("partitions_assigned", "validator-0"): "the validator's Kafka client is there and assigned",
}
"""The lines of the log that end a step, and what that step is."""


class Step(NamedTuple):
    """A part of the recovery."""

    what: str
    took_s: float


class Recovery(NamedTuple):
    """The whole and its parts, which follow each other. `cpu_s`: what the new aggregator used of a CPU."""

    took_s: float
    cpu_s: float
    steps: list[Step]


def write_open(bootstrap: str, topic: str, transactions: int) -> None:
    """As many transactions that are open, each with a step under way."""

    def records() -> Iterator[tuple[str, str]]:
        for i in range(transactions):
            txn_id = f"open-{i}"
            event: dict[str, Any] = {"txn_id": txn_id, "txn_type": f"type-{i % 20}", "ts": time.time()}
            yield txn_id, json.dumps({"event": "transaction_open", **event})
            yield txn_id, json.dumps({"event": "step_open", "step": "pay", **event})

    publish(bootstrap, topic, records())


def await_checkpoint(daemon: Daemon, log: LogTail) -> None:
    """Wait until a checkpoint is written that was begun after now."""
    asked_at = time.time()

    def written() -> bool:
        return any(
            line.get("event") == "checkpoint_written" and moment_of(line) - line["duration_s"] > asked_at
            for line in log.look()
        )

    daemon.await_that(written, "a checkpoint is written")


def kill_and_await_ready(daemon: Daemon, log: LogTail) -> Recovery:
    """kill -9 of the aggregator, until /readyz is 200 again."""
    known = len(log.look())
    victim = log.pids()["aggregator"]
    killed_at = time.time()
    os.kill(victim, signal.SIGKILL)
    looks = list(_looks(daemon, killed_at))
    ready_at = looks[-1][0]
    cpu_s = usage(log.pids()["aggregator"]).cpu_s
    return Recovery(ready_at - killed_at, cpu_s, _steps(killed_at, log.look()[known:], looks))


def _looks(daemon: Daemon, killed_at: float) -> Iterator[tuple[float, str]]:
    """Moments and what was missing then, until nothing is. What is still said by the old one does not count."""
    has_gone = False
    while time.time() - killed_at < HANG_GUARD_S:
        try:
            missing = daemon.missing()
        except OSError:
            has_gone = True
            missing = ["an answer"]
        if has_gone:
            yield time.time(), missing[0] if missing else ""
            if not missing:
                return
        time.sleep(LOOK_EVERY_S)
    raise AssertionError(f"not ready after {HANG_GUARD_S} s")


def _steps(killed_at: float, lines: list[dict[str, Any]], looks: list[tuple[float, str]]) -> list[Step]:
    moments = {}
    for line in lines:
        what = STEPS.get((line.get("event", ""), line.get("child", line.get("process", ""))))
        if what is not None:
            moments[what] = moment_of(line)
    last = max(moments.values())
    for (_, missing), (at, now_missing) in pairwise(looks):
        if at > last and missing != now_missing:
            moments[f"until /readyz no longer says: {missing}"] = at
    ordered = sorted(moments.items(), key=lambda item: item[1])
    return [Step(what, at - before) for (_, before), (what, at) in pairwise([("", killed_at), *ordered])]

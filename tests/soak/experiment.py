"""One soak: broker, topics, daemon, load and instruments are started in this order, watched, and ended in reverse.

While the load runs, every process is looked at again and again. Then the load ends what it has begun, the daemon is
given the time to settle it, and what it counted is held against what was written. `stop` ends the load early; all else
goes its way. If anything dies, the soak is over, and what was seen until then is left.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.bench.report import facts
from tests.harness.daemon import Daemon
from tests.harness.json_log import LogTail, moment_of
from tests.harness.metrics import Samples, total
from tests.harness.paths import ROOT
from tests.harness.processes import Usage, usage
from tests.soak.instruments import EVENTS_A_PROBE, PROBE_TYPE, Probes, Pulse, running
from tests.soak.load import TOPICS, Written
from txninsightd.tools.stack.broker import Broker, create_topics

PARTITIONS_A_TOPIC = 2
TOPIC_CONFIG = {"segment.bytes": str(64 << 20), "retention.bytes": str(256 << 20)}
"""An hour's records need not lie on the disk at once; everything was read long before it goes."""

QUESTIONS = 1000
HANG_GUARD_S = 600.0

Tell = Callable[["Sample"], object]


class Plan(NamedTuple):
    """What is to be run. `limits`, `state`: these keys of the daemon's configuration differ from the defaults."""

    minutes: float
    rate: float
    open_at_once: int
    sample_every_s: float
    limits: dict[str, int]
    state: dict[str, float]


class Sample(NamedTuple):
    """One look at everything. `at_s` since the load began; `written`, `read`: records so far; `pauses`: of readers."""

    at_s: float
    load_average: float
    written: int
    read: int
    lag: int
    open: int
    lingering: int
    remembered: int
    pauses: int
    processes: dict[str, Usage]


class Checkpoint(NamedTuple):
    """As the daemon's log tells it; `ended_at` in epoch seconds."""

    ended_at: float
    size_bytes: int
    duration_s: float


@dataclass
class Seen:
    """What a soak saw. `facts`: what it holds for, at the start.

    `question_cpu_us`: what one of the instruments' requests costs an otherwise idle aggregator. `differences`: in
    words, where the counters are not what was written. `began_at`, `began_monotonic`: of the load, by two clocks.
    `exit_code`: the daemon's, when it was told to stop. `stopped_by`: the signal that ended the load early.
    """

    plan: Plan
    facts: dict[str, Any] = field(default_factory=facts)
    began_at: float = 0.0
    began_monotonic: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    pulse: Pulse | None = None
    probes: Probes | None = None
    written: Written = field(default_factory=Written)
    question_cpu_us: float = 0.0
    metrics: Samples = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)
    exit_code: int | None = None
    stopped_by: str | None = None


class Load:
    """The process that writes. `written` is what it last told."""

    def __init__(self, bootstrap: str, name: str, plan: Plan, topics: list[str]) -> None:
        arguments = [bootstrap, name, str(plan.rate), str(plan.open_at_once), *topics]
        command = [sys.executable, "-m", "tests.soak.load", *arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.written = Written()
        assert self._process.stdout is not None
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    def is_alive(self) -> bool:
        """Whether it still writes."""
        return self._process.poll() is None

    def finish(self) -> Written:
        """Let it end what it has begun; gives all that was written. Raises AssertionError if it could not go on."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait(HANG_GUARD_S)
        self._listener.join()
        assert code == 0, f"the load ended with code {code}, {self.written}"
        return self.written

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            self.written = Written(**json.loads(line))


class Soak:
    """`broker` runs already; `directory` is the daemon's. `seen` fills while it runs."""

    def __init__(self, plan: Plan, broker: Broker, directory: Path) -> None:
        self.stop = threading.Event()
        self.seen = Seen(plan)
        self._plan = plan
        self._bootstrap = broker.bootstrap
        self._name = f"soak-{os.getpid()}-{time.time_ns():x}"
        self._topics = [f"{self._name}-{i}" for i in range(TOPICS)]
        create_topics(self._bootstrap, dict.fromkeys(self._topics, PARTITIONS_A_TOPIC), TOPIC_CONFIG)
        sections = {"topics": self._topics, "limits": plan.limits, "state": plan.state}
        self._daemon = Daemon(directory, self._bootstrap, sections)
        self._log = LogTail(self._daemon.log_file)

    def run(self, tell: Tell = lambda _: None) -> Seen:
        """All of it. `tell` is told of each sample."""
        with ExitStack() as ends:
            ends.callback(self._collect_checkpoints)
            ends.callback(self._daemon.end)
            self._daemon.start().await_ready()
            pids = self._daemon.all_pids()
            self.seen.question_cpu_us = self._question_cpu_us(pids["aggregator"])
            load = Load(self._bootstrap, self._name, self._plan, self._topics)
            ends.callback(load.kill)
            self._watch(load, pids, tell)
            self.seen.written = load.finish()
            self._settle()
            self.seen.restarted = self._restarted(pids)
            self.seen.exit_code = self._daemon.stop()
        return self.seen

    # --- While it runs ------------------------------------------------------------------------------------------------

    def _watch(self, load: Load, pids: dict[str, int], tell: Tell) -> None:
        seen = self.seen
        seen.pulse = Pulse(self._daemon, pids["aggregator"])
        seen.probes = Probes(self._daemon, self._bootstrap, f"{self._name}-probe", self._topics)
        with running(seen.pulse, seen.probes):
            seen.began_at, seen.began_monotonic = time.time(), time.monotonic()
            ends_at = seen.began_monotonic + self._plan.minutes * 60
            next_at = seen.began_monotonic
            living = (load, seen.pulse, seen.probes)
            while time.monotonic() < ends_at and not self.stop.is_set() and all(each.is_alive() for each in living):
                next_at += self._plan.sample_every_s
                self.stop.wait(min(next_at, ends_at) - time.monotonic())
                seen.samples.append(self._sample(load, pids))
                tell(seen.samples[-1])

    def _sample(self, load: Load, pids: dict[str, int]) -> Sample:
        metrics = self._daemon.metrics()
        return Sample(
            time.monotonic() - self.seen.began_monotonic,
            os.getloadavg()[0],
            load.written.records,
            _read(metrics),
            int(total(metrics, "txninsight_consumer_lag_records", view="monitor")),
            int(total(metrics, "txninsight_transactions")),
            int(total(metrics, "txninsight_lingering_transactions")),
            int(total(metrics, "txninsight_remembered_transactions")),
            int(total(metrics, "txninsight_consumer_pauses_total")),
            {name: _usage(name, pid) for name, pid in pids.items()},
        )

    def _question_cpu_us(self, aggregator: int) -> float:
        asking = Pulse(self._daemon, aggregator)
        before_s = usage(aggregator).cpu_s
        for i in range(QUESTIONS):
            asking.get("/healthz" if i % 2 else "/api/v1/transactions/unknown")
        return (usage(aggregator).cpu_s - before_s) / QUESTIONS * 1e6

    # --- In the end ---------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Wait until all that was written is finished and everything in the log was read, but not for ever; compare."""
        expected = self.seen.written.closed + self.seen.written.aborted + self._probed
        finished = "txninsight_transactions_finished_total"
        with suppress(AssertionError):
            self._daemon.await_that(
                lambda: self._daemon.total(finished) >= expected and not self._daemon.total("txninsight_transactions"),
                f"{expected} transactions are finished",
                HANG_GUARD_S,
            )
            self._daemon.await_read(time.time())
        self.seen.metrics = self._daemon.metrics()
        self.seen.differences = self._differences()

    @property
    def _probed(self) -> int:
        return self.seen.probes.began if self.seen.probes is not None else 0

    def _differences(self) -> list[str]:
        written, probed = self.seen.written, self._probed
        finished = "txninsight_transactions_finished_total"
        expected = {
            "opened": (written.opened + probed, self._total("txninsight_transactions_opened_total")),
            "closed": (written.closed + probed, self._total(finished, outcome="closed")),
            "aborted": (written.aborted, self._total(finished, outcome="aborted")),
            "finished": (written.opened + probed, self._total(finished)),
            "probes": (probed, self._total(finished, txn_type=PROBE_TYPE, outcome="closed")),
            "still live": (0, self._total("txninsight_transactions")),
            "durations": (written.closed + probed, self._total("txninsight_transaction_duration_seconds_count")),
            "steps": (written.closed_steps + probed, self._total("txninsight_step_duration_seconds_count")),
            "records": (written.records + probed * EVENTS_A_PROBE, _read(self.seen.metrics)),
            "settled by time-out": (0, self._total("txninsight_settled_by_timeout_total")),
            "anomalies": (0, self._total("txninsight_anomalies_total")),
            "restarts": (0, self._total("txninsight_child_restarts_total")),
            "failed checkpoints": (0, self._total("txninsight_checkpoint_failures_total")),
        }
        return [
            f"{what}: {is_} counted, {should} expected" for what, (should, is_) in expected.items() if should != is_
        ]

    def _total(self, name: str, **labels: str) -> int:
        return int(total(self.seen.metrics, name, **labels))

    def _collect_checkpoints(self) -> None:
        self.seen.checkpoints = [_checkpoint(line) for line in self._log.look() if _tells_of_checkpoint(line)]

    def _restarted(self, pids: dict[str, int]) -> list[str]:
        now = self._daemon.all_pids()
        return [name for name, pid in pids.items() if now.get(name) != pid]


def _usage(name: str, pid: int) -> Usage:
    try:
        return usage(pid)
    except (FileNotFoundError, ProcessLookupError) as gone:
        raise AssertionError(f"{name} has died") from gone


def _read(metrics: Samples) -> int:
    return int(total(metrics, "txninsight_records_total", view="monitor", result="ok"))


def _tells_of_checkpoint(line: dict[str, Any]) -> bool:
    return line.get("event") == "checkpoint_written"


def _checkpoint(line: dict[str, Any]) -> Checkpoint:
    return Checkpoint(moment_of(line), int(line["bytes"]), float(line["duration_s"]))

"""The campaign itself: everything is started, faults strike one after the other, and in the end all is compared."""

import os
import random
import shutil
import statistics
import time
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tests.harness.campaign.faults import FAULTS, HANGS, KILLS, AnyFault, FaultInjector, InjectedFault
from tests.harness.campaign.host_faults import HostFault
from tests.harness.campaign.load import Load, Truth
from tests.harness.campaign.verdict import Details, Scraped, scraped, with_validator
from tests.harness.clock_shim import wall_clock
from tests.harness.metrics import Samples
from tests.harness.oracle import Log, read_logs
from tests.harness.prometheus import SCRAPE_EVERY_S, TargetPrometheus
from tests.harness.service_manager import ServiceDaemon, ServiceManager
from tests.harness.tmpfs import tmpfs
from txninsightd.tools.stack.broker import Broker, create_topics

HEARTBEAT_TIMEOUT_S = 8
WATCHDOG_S = 9.0
SETTLED_GUARD_S = 60.0

SECTIONS: dict[str, Any] = {
    "state": {"checkpoint_every_s": 1, "linger_s": 86400},
    "limits": {"lingering": 1_000_000, "batch_records": 200},
    "transaction_types": {name: {"overdue_after_s": 3600} for name in ("order", "payment", "voyage", "reading")},
    "supervise": {
        "backoff_initial_s": 0.1,
        "backoff_max_s": 0.2,
        "give_up_after": 1000,
        "heartbeat_timeout_s": HEARTBEAT_TIMEOUT_S,
    },
}
"""Beside those that the truth takes as set. With the usual back-off, so many deaths would end the daemon. The types are
named, so that all their counters begin at 0."""


IDLE_TOPIC = "campaign.idle"
LOG_DISK = "256m"


class Form(NamedTuple):
    """How often each process and the broker are killed, each process hangs, and the host does each of its faults.

    `idle_partitions`: so many are read beside the loaded ones.
    """

    name: str
    kills: int
    hangs: int
    host_faults: int = 0
    idle_partitions: int = 0

    @property
    def often(self) -> dict[AnyFault, int]:
        """How often each fault strikes."""
        often: dict[AnyFault, int] = dict.fromkeys(KILLS, self.kills)
        return often | dict.fromkeys(HANGS, self.hangs) | dict.fromkeys(HostFault, self.host_faults)


class Told(NamedTuple):
    """All that was said in the end, and what is true.

    `known`: how many transactions the daemon knows; `partitions`: how many it reads.
    """

    truth: Truth
    logs: list[Log]
    details: Details
    known: int
    partitions: int
    metrics: Samples
    scraped: Scraped


class Experiment:
    """One campaign. The same seed gives the same load and the same order of faults."""

    def __init__(self, form: Form, broker: Broker, directory: Path, seed: int, ends: ExitStack) -> None:
        self.injected: list[InjectedFault] = []
        self.broker = broker
        self._form = form
        self._draw = random.Random(seed)
        (directory / "load").mkdir()
        self._load = Load(directory / "load", broker.bootstrap, seed)
        ends.callback(self._load.kill)
        self._topics = self._load.topics()
        sections = merged(self._load.sections(), SECTIONS)
        sections["topics"] += [{"name": IDLE_TOPIC}] if form.idle_partitions else []
        self.daemon = ServiceDaemon(directory, broker.bootstrap, sections, WATCHDOG_S)
        self.service = ServiceManager(self.daemon)
        self.prometheus = TargetPrometheus(directory, self.daemon.port)
        clock = ends.enter_context(wall_clock(directory))
        self.daemon.environment |= clock.environment
        (directory / "log-disk").mkdir()
        disk = ends.enter_context(tmpfs(directory / "log-disk", LOG_DISK))
        ends.callback(lambda: shutil.copy(self.daemon.log_file, directory))
        self.daemon.log_file = disk.directory / self.daemon.log_file.name
        self._injector = FaultInjector(self.service, broker, self._topics, seed, self._load.require_sound, disk, clock)
        self._ends = ends

    def run(self) -> Told:
        """All of it. Raises LoadBroken when a producer failed: then another one must be made."""
        idle = {IDLE_TOPIC: self._form.idle_partitions} if self._form.idle_partitions else {}
        create_topics(self.broker.bootstrap, {**self._topics, **idle})
        self.service.start()
        self._ends.callback(self.service.kill)
        self.daemon.await_ready()
        self._ends.enter_context(self.prometheus)
        self.prometheus.await_scraped("txninsight_ready")
        began = time.time()
        self._load.start()
        for fault, in_checkpoint in self._plan():
            self.injected.append(self._injector.inject(fault, in_checkpoint))
        self._load.stop()
        return self._conclude(began)

    def _plan(self) -> list[tuple[AnyFault, bool]]:
        """In random order; every other one of each kind in the middle of a checkpoint."""
        plan = [(fault, i % 2 == 0) for fault, times in self._form.often.items() for i in range(times)]
        self._draw.shuffle(plan)
        return plan

    def _conclude(self, began: float) -> Told:
        """Wait until the moment for which the truth is told, and until what is due by then is settled.

        What is not settled by then is for the comparison to tell.
        """
        truth = self._load.truth()
        self.daemon.await_read(time.time() + truth.judged_after_s)
        finished = truth.counts["txninsight_transactions_finished_total"].total()
        overdue_at = time.time() + SETTLED_GUARD_S
        self.daemon.await_that(
            lambda: self._is_settled(finished) or time.time() > overdue_at, "the end", 2 * SETTLED_GUARD_S
        )
        logs = read_logs(self.broker, self._topics)
        truth = truth._replace(counts=with_validator(truth.counts, logs))
        metrics, asked_at = self.daemon.metrics(), time.time()
        details, known = self.daemon.details(truth.transactions), self.daemon.get("/api/v1/transactions", limit=1)
        self.daemon.await_that(lambda: time.time() > asked_at + 2 * SCRAPE_EVERY_S, "it is scraped once more")
        seen = scraped(self.prometheus, began, time.time())
        partitions = len(self.daemon.get("/api/v1/partitions"))
        return Told(truth, logs, details, known["matched"], partitions, metrics, seen)

    def _is_settled(self, finished: int) -> bool:
        """Whether so many transactions are finished, and nothing is left to read."""
        is_read = self.daemon.total("txninsight_consumer_lag_records") == 0 and not self.daemon.missing()
        return is_read and self.daemon.total("txninsight_transactions_finished_total") >= finished


def merged(*sections: dict[str, Any]) -> dict[str, Any]:
    """Sections of the config; keys of a later one win."""
    result: dict[str, Any] = {}
    for each in sections:
        for key, value in each.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = {**result[key], **value} if both else value
    return result


# --- The table --------------------------------------------------------------------------------------------------------


def table(injected: Iterable[InjectedFault], told: Told, differences: int) -> str:
    """What was done, and what came of it, in Markdown."""
    injected, seen = list(injected), told.scraped
    lines = [
        "| fault | times | in a checkpoint | undecided, least | unapplied, least | noticed, s | "
        "recovered, s: median | max | counters fallen |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(fault, [s for s in injected if s.fault is fault], seen) for fault in FAULTS]
    scrapes = max(len(series.samples) for series in seen.series)
    summary = (
        f"{datetime.now():%Y-%m-%d}: {len(injected)} faults in {seen.until - seen.began:.0f} s, "
        f"{len(told.truth.transactions):,} transactions of {sum(map(_records, told.logs)):,} records, "
        f"{told.partitions:,} partitions, "
        f"{len(seen.series):,} series of counters in up to {scrapes:,} scrapes; "
        f"load average at the end {os.getloadavg()[1]:.1f}. Differences to the truth: {differences}."
    )
    return "\n".join([summary, "", *lines])


def _records(log: Log) -> int:
    return len(log.producers)


def _row(fault: AnyFault, injected: list[InjectedFault], seen: Scraped) -> str:
    if not injected:
        return f"| {fault} | 0 | | | | | | | |"
    recovered = [s.recovered_s for s in injected]
    noticed = [s.noticed_s for s in injected if s.noticed_s is not None]
    cells = [
        fault,
        len(injected),
        sum(s.in_checkpoint for s in injected),
        min(s.in_flight.undecided for s in injected),
        min(s.in_flight.unapplied for s in injected),
        f"{max(noticed):.1f}" if noticed else "",
        f"{statistics.median(recovered):.1f}",
        f"{max(recovered):.1f}",
        sum(len(seen.fallen(s.at, s.recovered_at)) for s in injected),
    ]
    return f"| {' | '.join(map(str, cells))} |"

"""One run of the installed daemon over filled topics: what each of its processes used from its start to the end.

The end is the moment at which `/metrics` says that every expected transaction is finished (or, where none ever closes,
opened and judged). The same daemon on an empty topic, until it is ready, tells what to take off as start-up. The
metrics are looked at once a second, as a busy Prometheus would: that is part of what is measured.
"""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tests.bench.workload import Variant
from tests.harness.daemon import Daemon
from tests.harness.metrics import Samples, total
from tests.harness.processes import Usage, usage

LOOK_EVERY_S = 1.0
HANG_GUARD_S = 1800.0
TEN_YEARS_S = 315_360_000
PATIENT = dict.fromkeys(("idle_after_s", "overdue_after_s", "commit_pending_after_s"), TEN_YEARS_S)

Advance = Callable[[int], object]


class Stalled(Exception):
    """The daemon did not come to the end of its work."""


class Run(NamedTuple):
    """What one life of the daemon used, by process. `events`: how many records its monitor decoded."""

    events: int
    wall_s: float
    usages: dict[str, Usage]


def run_over(variant: Variant, bootstrap: str, topics: list[str], advance: Advance) -> Run:
    """Let the daemon work through filled topics. `advance` is told how many events it has decoded meanwhile."""
    expected, seen = variant.transactions, 0

    def is_done(samples: Samples) -> bool:
        nonlocal seen
        decoded = int(total(samples, "txninsight_records_total", view="monitor", result="ok"))
        advance(decoded - seen)
        seen = decoded
        if variant.closes:
            return total(samples, "txninsight_transactions_finished_total", outcome="closed") >= expected
        opened = total(samples, "txninsight_transactions_opened_total")
        return opened >= expected and total(samples, "txninsight_undecided_records") == 0

    return _run(bootstrap, topics, variant.colocated, is_done)


def run_empty(bootstrap: str, topic: str) -> Run:
    """Let the daemon become ready on a topic without records: its start-up."""
    return _run(bootstrap, [topic], False, lambda samples: total(samples, "txninsight_ready") == 1)


def _run(bootstrap: str, topics: list[str], colocated: bool, is_done: Callable[[Samples], bool]) -> Run:
    sections: dict[str, Any] = {
        "topics": topics,
        "events": {"colocated": colocated},
        "stuck": PATIENT,
        "discovery": {"every_s": 10},
    }
    with TemporaryDirectory() as directory:
        started = time.monotonic()
        daemon = Daemon(Path(directory), bootstrap, sections).start()
        try:
            samples = _await(daemon, is_done)
            wall_s = time.monotonic() - started
            usages = {name: usage(pid) for name, pid in _processes(daemon).items()}
        finally:
            daemon.end()
    return Run(int(total(samples, "txninsight_records_total", view="monitor", result="ok")), wall_s, usages)


def _await(daemon: Daemon, is_done: Callable[[Samples], bool]) -> Samples:
    process = daemon.process
    assert process is not None
    deadline = time.monotonic() + HANG_GUARD_S
    while time.monotonic() < deadline:
        if daemon.status("/healthz"):
            samples = daemon.metrics()
            if is_done(samples):
                return samples
        try:
            process.wait(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            continue
        raise Stalled(f"the daemon ended with code {process.returncode}: {daemon.log_file.read_text()[-1000:]}")
    raise Stalled(f"not done after {HANG_GUARD_S:.0f} s: {daemon.log_file.read_text()[-1000:]}")


def _processes(daemon: Daemon) -> dict[str, int]:
    """By role; the benchmark runs one reader of each view."""
    return {name.partition("-")[0]: pid for name, pid in daemon.all_pids().items()}

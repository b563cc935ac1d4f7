"""What 50 clients that ask for /metrics cost the rest of the daemon: CPU per event, and how long events take.

    .venv/bin/python -m tests.bench.scraped                   all cases, twice each: about nine minutes
    .venv/bin/python -m tests.bench.scraped --cases large --runs 1

The same load is read by a fresh daemon each time: alone, then beside 50 clients, in turn. A case says how large the
page is (by the number of transaction types) and how often each client asks. CPU is that of all of the daemon's
processes from the beginning of the load until all is settled. Every 100 ms a transaction is written whose first
appearance in the API is awaited: that is how long an event takes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tests.bench import report
from tests.bench.latency import Writing, warm_up
from tests.bench.latency_instruments import MARKER, Markers
from tests.bench.report import MIB
from tests.bench.runs import PATIENT
from tests.harness.business_events import wholes
from tests.harness.daemon import Daemon
from tests.harness.fixtures import fresh_name
from tests.harness.kafka import Writer
from tests.harness.metrics import total
from tests.harness.paths import ROOT, RUN_DIR
from tests.harness.processes import usage
from tests.harness.waiting import await_that
from tests.soak.instruments import Instrument, running
from tests.soak.report import quantile
from txninsightd.tools.stack import machine
from txninsightd.tools.stack.broker import Broker, create_topics
from txninsightd.tools.stack.jars import ensure_jars

MARKERS = "<!-- bench scraped: begin -->", "<!-- bench scraped: end -->"
CLIENTS = 50
PARTITIONS = 6
LOADED_S = 20
LOOK_EVERY_S = 0.01
SEEN_EVERY_S = 1.0
END_GUARD_S = 600.0
QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


class Case(NamedTuple):
    """`types`: of business transactions beside those of the load, which make the page large."""

    what: str
    rate: int
    types: int
    every_s: float


CASES = {
    "seldom": Case("fresh daemon, each client once in 15 s", 5_000, 0, 15),
    "often": Case("fresh daemon, as often as they can", 5_000, 0, 0),
    "full": Case("200 types, as often as they can", 5_000, 200, 0),
    "large": Case("1,500 types, as often as they can", 5_000, 1_500, 0),
    "large-fast": Case("1,500 types, as often as they can", 50_000, 1_500, 0),
}
"""`limits.label_values` is 200 by default."""


class Clients:
    """A process of scraped_clients.py."""

    def __init__(self, port: int, every_s: float) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.bench.scraped_clients"]
        arguments = [str(port), str(CLIENTS), str(every_s)]
        self._process = subprocess.Popen(
            [*command, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def finish(self) -> tuple[int, int, int]:
        """Answers, errors among them, bytes."""
        told, _ = self._process.communicate()
        answers, errors, size = map(int, told.split())
        return answers, errors, size

    def end(self) -> None:
        """Leave nothing running."""
        self._process.kill()
        self._process.communicate()


class Appearances(Instrument):
    """Looks for one marker after the other in the API, until it is there. `seen_at`: when each was (monotonic)."""

    patience_s = END_GUARD_S

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon)
        self.seen_at: list[float] = []

    def step(self) -> None:
        """One look, and the wait for the next one."""
        began_at = time.monotonic()
        status, _ = self.get(f"/api/v1/transactions/{MARKER}-{len(self.seen_at)}")
        if status == 200:
            self.seen_at.append(time.monotonic())
        self.stopping.wait(began_at + LOOK_EVERY_S - time.monotonic())


def measure(case: Case, clients: bool, broker: Broker) -> dict[str, Any]:
    """One daemon's figures. Times in seconds."""
    topic = fresh_name("scraped")
    create_topics(broker.bootstrap, {topic: PARTITIONS})
    with TemporaryDirectory() as directory, ExitStack() as ends:
        sections: dict[str, Any] = {
            "topics": [topic],
            "stuck": PATIENT,
            "state": {"settle_lateness_s": 2, "retry_grace_s": 5},
            "limits": {"label_values": max(200, 2 * case.types)},
        }
        daemon = Daemon(Path(directory), broker.bootstrap, sections)
        ends.callback(daemon.end)
        daemon.start().await_ready()
        if case.types:
            writer = Writer(broker)
            for i in range(case.types):
                writer.write(topic, *wholes([f"of-{i}"], f"type-{i}"), partition=0)
            await_that(lambda: _closed(daemon) == case.types, "all types are known", END_GUARD_S, every_s=SEEN_EVERY_S)
        records = case.rate * LOADED_S
        load = Writing("live", broker, topic, records, case.rate)
        ends.callback(load.end)
        asking = Clients(daemon.port, case.every_s) if clients else None
        if asking is not None:
            ends.callback(asking.end)
        page_bytes = len(daemon.read("/metrics"))
        pids = daemon.all_pids()
        before, began_at = {name: usage(pid).cpu_s for name, pid in pids.items()}, time.monotonic()
        appearances, markers = Appearances(daemon), Markers(broker.bootstrap, topic)
        with running(appearances):
            with markers:
                load.go_on()
                load.await_written()
            all_seen = len(markers.written_at)
            await_that(lambda: len(appearances.seen_at) >= all_seen, "all are seen", END_GUARD_S, every_s=LOOK_EVERY_S)
        # Not by /metrics, which is what the other case must do without.
        last = f"{MARKER}-{all_seen - 1}"
        await_that(lambda: daemon.transaction(last)["settled"], "all are settled", END_GUARD_S, every_s=LOOK_EVERY_S)
        took_s = time.monotonic() - began_at
        cpu = {name: usage(pid).cpu_s - before[name] for name, pid in pids.items()}
        answers, errors, size = asking.finish() if asking is not None else (0, 0, 0)
        latencies = [seen - written for seen, written in zip(appearances.seen_at, markers.written_at, strict=False)]
        return {
            "clients": CLIENTS if clients else 0,
            "page_bytes": page_bytes,
            "took_s": took_s,
            "cpu_us_per_event": {name: 1e6 * seconds / records for name, seconds in cpu.items()},
            "answers": answers,
            "errors": errors,
            "answered_bytes": size,
            "event_s": {name: quantile(latencies, q) for name, q in QUANTILES.items()},
            "events_timed": len(latencies),
            "aggregator_rss_peak_bytes": usage(daemon.all_pids()["aggregator"]).most_rss_bytes,
            "restarted": [name for name, pid in pids.items() if daemon.all_pids().get(name) != pid],
            "load_average": os.getloadavg()[0],
        }


def _closed(daemon: Daemon) -> float:
    return total(daemon.metrics(), "txninsight_transactions_finished_total", outcome="closed")


# --- What is told -----------------------------------------------------------------------------------------------------


def markdown(found: dict[str, list[dict[str, Any]]], facts: dict[str, Any]) -> str:
    """The table for docs/performance.md: a row for each case without and with clients, medians of the runs."""
    lines = [
        f"Measured {facts['date'][:10]} at {facts['commit']}: {facts['cpu']}, {facts['cores']} cores shared with the "
        f"broker, the producers and the clients. Load average at the end: {facts['load_average']:.1f}.",
        "",
        "| page | records/s | clients | answers/s | page, kB | CPU per event, us: all (aggregator) | of the same alone "
        "| an event in the API p50 / p99 / max, ms | aggregator's peak, MiB |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, runs in found.items():
        alone = statistics.median(_all(run) for run in runs if not run["clients"])
        for clients in (0, CLIENTS):
            mine = [run for run in runs if run["clients"] == clients]
            sums, own = [statistics.median(map(of, mine)) for of in (_all, _aggregators)]
            event = " / ".join(
                f"{statistics.median(run['event_s'][q] for run in mine) * 1000:,.0f}" for q in mine[0]["event_s"]
            )
            answers = statistics.median(run["answers"] / run["took_s"] for run in mine)
            peak = max(run["aggregator_rss_peak_bytes"] for run in mine) / MIB
            lines.append(
                f"| {CASES[name].what} | {CASES[name].rate:,} | {clients} | {answers:,.0f} "
                f"| {mine[0]['page_bytes'] / 1000:,.0f} | {sums:.1f} ({own:.1f}) | {sums / alone:.2f} x "
                f"| {event} | {peak:,.0f} |"
            )
    return "\n".join(lines)


def _all(run: dict[str, Any]) -> float:
    return float(sum(run["cpu_us_per_event"].values()))


def _aggregators(run: dict[str, Any]) -> float:
    return float(run["cpu_us_per_event"]["aggregator"])


def main() -> int:
    """Entry point; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scraped", description="What do 50 clients cost?")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--runs", type=int, default=2, help="of each case, without and with clients (%(default)s)")
    parser.add_argument("--json", type=Path, default=RUN_DIR / "bench-scraped.json", help="where the figures go")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.cases}
    RUN_DIR.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=RUN_DIR) as directory:
        libs = ensure_jars(RUN_DIR / "kafka")
        with Broker(Path(directory) / "kafka-data", libs, *machine.free_ports(2), heap="1g") as broker:
            warm_up(broker)
            for name in options.cases:
                for clients in (False, True) * options.runs:
                    found[name].append(measure(CASES[name], clients, broker))
                    print(name, json.dumps(found[name][-1]), file=sys.stderr, flush=True)
    facts = report.facts()
    figures = {"facts": facts, "cases": found}
    report.publish(figures, markdown(found, facts), options.json, MARKERS if options.docs else None)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

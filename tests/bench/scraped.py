"""What 50 clients that ask for /metrics cost the rest of the daemon: CPU per event, and how long events take.

    .venv/bin/python -m tests.bench.scraped                   all cases, twice each: about 17 minutes
    .venv/bin/python -m tests.bench.scraped --cases large --runs 1

The same load is read by a fresh daemon each time: alone, then beside 50 clients, in turn. A case says how large the
page is (by the number of transaction types) and how often each client asks. CPU is that of all of the daemon's
processes from the beginning of the load until all is settled. What the answers themselves cost is measured afterwards,
when there are no more events; what is left is the cost to the rest of the daemon. Every 100 ms a transaction is written
whose first appearance in the API is awaited: that is how long an event takes.
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
from tests.bench.scraped_clients import Count
from tests.harness.business_events import wholes
from tests.harness.daemon import Daemon
from tests.harness.fixtures import fresh_name
from tests.harness.kafka import Writer
from tests.harness.metrics import total
from tests.harness.paths import ROOT, RUN_DIR
from tests.harness.processes import CpuTime, usage
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
IDLE_S = 20.0
BURSTS = 4
END_GUARD_S = 600.0
NOTHING = Count(0, 0, 0)
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

    def count(self) -> Count:
        """What they got up to now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Count(*map(int, self._process.stdout.readline().split()))

    def await_more(self, answers: int) -> int:
        """Wait for so many more; gives how many there are then."""
        wanted = self.count().answers + answers
        await_that(lambda: self.count().answers >= wanted, "they are answered", END_GUARD_S, every_s=LOOK_EVERY_S)
        return self.count().answers

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
        cpu, began_at = CpuTime(pids), time.monotonic()
        before = asking.count() if asking is not None else NOTHING
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
        used, after = cpu.used(), asking.count() if asking is not None else NOTHING
        latencies = [seen - written for seen, written in zip(appearances.seen_at, markers.written_at, strict=False)]
        return {
            "clients": CLIENTS if clients else 0,
            "page_bytes": page_bytes,
            "took_s": took_s,
            "cpu_us_per_event": {name: 1e6 * seconds / records for name, seconds in used.items()},
            "answers": after.answers - before.answers,
            "errors": after.errors - before.errors,
            "answered_bytes": after.size - before.size,
            "records": records,
            "without_events": _without_events(daemon, asking),
            "event_s": {name: quantile(latencies, q) for name, q in QUANTILES.items()},
            "events_timed": len(latencies),
            "aggregator_rss_peak_bytes": usage(daemon.all_pids()["aggregator"]).most_rss_bytes,
            "restarted": [name for name, pid in pids.items() if daemon.all_pids().get(name) != pid],
            "load_average": os.getloadavg()[0],
        }


def _without_events(daemon: Daemon, asking: Clients | None) -> dict[str, float]:
    """What all processes use when no events come. Answers come in bursts, so it begins and ends behind one."""
    first = asking.await_more(CLIENTS) if asking is not None else 0
    cpu, began_at = CpuTime(daemon.all_pids()), time.monotonic()
    if asking is not None:
        last = asking.await_more(BURSTS * CLIENTS)
    else:
        last = 0
        time.sleep(IDLE_S)
    return {"cpu_s": sum(cpu.used().values()), "took_s": time.monotonic() - began_at, "answers": last - first}


def _closed(daemon: Daemon) -> float:
    return total(daemon.metrics(), "txninsight_transactions_finished_total", outcome="closed")


# --- What is told -----------------------------------------------------------------------------------------------------


def markdown(found: dict[str, list[dict[str, Any]]], facts: dict[str, Any]) -> str:
    """The table for docs/performance.md: a row for each case without and with clients, medians of the runs."""
    lines = [
        f"Measured {facts['date'][:10]} at {facts['commit']}: {facts['cpu']}, {facts['cores']} cores shared with the "
        f"broker, the producers and the clients. Load average at the end: {facts['load_average']:.1f}.",
        "",
        "| page | records/s | clients | answers/s | page, kB | CPU per event, us: all | of the same alone "
        "| the same without the answers | an event in the API p50 / p99 / max, ms | aggregator's peak, MiB |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, runs in found.items():
        alone = [run for run in runs if not run["clients"]]
        usual = statistics.median(map(_all, alone))
        idle_share = statistics.median(q["cpu_s"] / q["took_s"] for q in (run["without_events"] for run in alone))
        for clients in (0, CLIENTS):
            mine = [run for run in runs if run["clients"] == clients]
            everything = statistics.median(map(_all, mine))
            rest = statistics.median(_all(run) - _answers(run, idle_share) for run in mine)
            event = " / ".join(
                f"{statistics.median(run['event_s'][q] for run in mine) * 1000:,.0f}" for q in mine[0]["event_s"]
            )
            answers = statistics.median(run["answers"] / run["took_s"] for run in mine)
            peak = max(run["aggregator_rss_peak_bytes"] for run in mine) / MIB
            lines.append(
                f"| {CASES[name].what} | {CASES[name].rate:,} | {clients} | {answers:,.0f} "
                f"| {mine[0]['page_bytes'] / 1000:,.0f} | {everything:.1f} | {everything / usual:.2f} x "
                f"| {rest:.1f}, {rest / usual:.2f} x | {event} | {peak:,.0f} |"
            )
    return "\n".join(lines)


def _all(run: dict[str, Any]) -> float:
    return float(sum(run["cpu_us_per_event"].values()))


def _answers(run: dict[str, Any], idle_share: float) -> float:
    """What the answers cost of the CPU time per event. `idle_share`: of a core, without events and clients."""
    quiet = run["without_events"]
    if not run["answers"]:
        return 0.0
    each_s = (quiet["cpu_s"] - idle_share * quiet["took_s"]) / quiet["answers"]
    return float(1e6 * each_s * run["answers"] / run["records"])


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

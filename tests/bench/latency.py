"""How long the daemon lets its users wait: for `/healthz`, for `/metrics`, and for a record to be counted there.

    .venv/bin/python -m tests.bench.latency             all situations: about six minutes
    .venv/bin/python -m tests.bench.latency --quick     the same with a tenth of the load: about a minute
    .venv/bin/python -m tests.bench.latency --situations aborted --out before.json

Each situation has a fresh daemon, fresh topics and a load in processes of its own. Meanwhile `/healthz` is asked every
20 ms over one connection, and every 20 ms over new ones. A *marker*, one transaction of a type of its own, is
written every 100 ms, and `/metrics` is asked every 50 ms: that finds when each marker was counted, to these 50 ms.
These questions take a quarter of the aggregator's time, so in `live` only `/metrics` is asked, every 100 ms.

A request that waits holds up those that would have followed, which would have waited too. So a round trip of 100 ms
counts as those of 100, 80, 60, 40 and 20 ms: what a client would see that comes at any moment.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tests.bench.latency_instruments import Markers, Scrapes, finished
from tests.bench.report import MIB, facts
from tests.bench.runs import PATIENT
from tests.harness.daemon import Daemon
from tests.harness.fixtures import fresh_name
from tests.harness.paths import ROOT, RUN_DIR
from tests.harness.processes import usage
from tests.harness.waiting import await_that
from tests.soak.experiment import Load, Plan
from tests.soak.instruments import Pulse, running
from tests.soak.load import TOPICS
from tests.soak.report import quantile
from txninsightd.tools.stack import machine
from txninsightd.tools.stack.broker import Broker, create_topics
from txninsightd.tools.stack.jars import ensure_jars

ASK_EVERY_S = 0.02
SCRAPED_EVERY_S = 0.05
SCRAPED_SELDOM_EVERY_S = 0.1
STALL_S = 0.25
END_GUARD_S = 600.0
PARTITIONS = 6
SECTIONS: dict[str, Any] = {
    "stuck": PATIENT,
    "state": {"settle_lateness_s": 2, "retry_grace_s": 5},
    "limits": {"open_transactions": 2_000_000},
    "supervise": {"heartbeat_timeout_s": END_GUARD_S},
}
"""A daemon that stands still is measured, not replaced."""


class Size(NamedTuple):
    """How much is written. `idle_s`, `steady_s`: for so long."""

    aborted: int = 1_000_000
    replayed: int = 1_000_000
    flood: int = 1_500_000
    replayed_rate: float = 46_000
    live_rate: float = 50_000
    steady_rate: float = 50_000
    steady_s: float = 30
    idle_s: float = 15


FULL = Size()
QUICK = Size(aborted=100_000, replayed=100_000, flood=150_000, steady_s=3, idle_s=2)
WARM_UP = 400_000
"""Records that the broker gets before all, in a topic that no daemon reads. A JVM that has just begun compiles for some
seconds, and takes a whole core for that."""


# --- One scene --------------------------------------------------------------------------------------------------------


class Writing:
    """A process of latency_load.py. It is ready when this returns."""

    def __init__(self, kind: str, broker: Broker, topic: str, count: int, rate: float = 0) -> None:
        arguments = [kind, broker.bootstrap, topic, str(count), str(rate)]
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.bench.latency_load", *arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._hear() == "ready"

    def go_on(self) -> None:
        """Let it do what comes next."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def await_written(self) -> float:
        """How long it took to write all, in seconds."""
        word, _, seconds = self._hear().partition(" ")
        assert word == "written"
        return float(seconds)

    def end(self) -> None:
        """Leave nothing running."""
        self._process.kill()
        self._process.communicate()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def warm_up(broker: Broker) -> None:
    """Let the broker serve transactional producers for some seconds."""
    topic = fresh_name("warm-up")
    create_topics(broker.bootstrap, {topic: PARTITIONS})
    load = Writing("replayed", broker, topic, WARM_UP, FULL.replayed_rate)
    load.go_on()
    load.await_written()
    load.end()


class PatientPulse(Pulse):
    """Also a daemon that stands still for minutes is measured."""

    patience_s = END_GUARD_S


class Scene:
    """A running daemon with its broker and topics, and the instruments. All that a situation needs."""

    def __init__(
        self, size: Size, broker: Broker, daemon: Daemon, topics: list[str], asked_seldom: bool, ends: ExitStack
    ) -> None:
        self.size = size
        self.broker = broker
        self.topics = topics
        self.daemon = daemon
        self.pids = daemon.all_pids()
        aggregator = self.pids["aggregator"]
        self.pulse = PatientPulse(daemon, aggregator, ASK_EVERY_S)
        self.fresh = PatientPulse(daemon, aggregator, ASK_EVERY_S, reconnects=True)
        self.scrapes = Scrapes(daemon, SCRAPED_SELDOM_EVERY_S if asked_seldom else SCRAPED_EVERY_S)
        self.instruments = [self.scrapes] if asked_seldom else [self.pulse, self.fresh, self.scrapes]
        self.markers = Markers(broker.bootstrap, topics[0])
        self._ends = ends

    def writing(self, kind: str, count: int, rate: float = 0) -> Writing:
        """A load that is ready to begin."""
        load = Writing(kind, self.broker, self.topics[0], count, rate)
        self._ends.callback(load.end)
        return load

    def steady(self, rate: float) -> Load:
        """The soak test's load; it begins at once."""
        plan = Plan(0, rate, 5_000, 0, {}, {})
        load = Load(self.broker.bootstrap, fresh_name("steady"), plan, self.topics)
        self._ends.callback(load.kill)
        return load

    def await_finished(self, count: int, **labels: str) -> None:
        """Wait until so many transactions, markers aside, are settled."""
        self._await(lambda: self.scrapes.sum(finished(**labels)) >= count, f"{count} are settled")

    def await_opened(self, count: int) -> None:
        """Wait until so many transactions, markers aside, were opened."""
        self._await(lambda: self.scrapes.sum("txninsight_transactions_opened_total") >= count, f"{count} are open")

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        await_that(condition, what, END_GUARD_S, process=self.daemon.process, every_s=ASK_EVERY_S)


# --- The situations ---------------------------------------------------------------------------------------------------


class Wrote(NamedTuple):
    """Records, and the seconds that it took to write them."""

    records: int
    seconds: float


Situation = Callable[[Scene], Iterator[Wrote | None]]
"""A generator: first it gets ready (and yields None), then it writes, waits for the end, and yields what it wrote."""


def aborted(scene: Scene) -> Iterator[Wrote | None]:
    """Opened in one Kafka transaction and aborted, until all are settled."""
    count = scene.size.aborted
    load = scene.writing("aborted", count)
    yield None
    load.go_on()
    seconds = load.await_written()
    scene.await_opened(count)
    load.go_on()
    scene.await_finished(count, outcome="aborted")
    yield Wrote(count, seconds)


def replayed(scene: Scene) -> Iterator[Wrote | None]:
    """Made beforehand, written by eight transactional producers at 46,000/s."""
    return _written_beforehand(scene, "replayed", scene.size.replayed_rate)


def live(scene: Scene) -> Iterator[Wrote | None]:
    """The same at 50,000/s in 20 Kafka transactions a second (a broker has much work with 100), and few questions."""
    return _written_beforehand(scene, "live", scene.size.live_rate)


def _written_beforehand(scene: Scene, kind: str, rate: float) -> Iterator[Wrote | None]:
    count = scene.size.replayed
    load = scene.writing(kind, count, rate)
    yield None
    load.go_on()
    seconds = load.await_written()
    scene.await_finished(count // 7 - 1)
    yield Wrote(count, seconds)


def steady(scene: Scene) -> Iterator[Wrote | None]:
    """The soak test's load at 50,000/s: 10,000 open at a time, every tenth Kafka transaction aborted."""
    yield None
    loads = [scene.steady(scene.size.steady_rate / 2) for _ in range(2)]
    began_at = time.monotonic()
    await_that(lambda: time.monotonic() > began_at + scene.size.steady_s, "the end of the load", END_GUARD_S)
    seconds = time.monotonic() - began_at
    records = sum(load.written.records for load in loads)
    written = [load.finish() for load in loads]
    scene.await_finished(sum(each.closed + each.aborted for each in written))
    yield Wrote(records, seconds)


def flood(scene: Scene) -> Iterator[Wrote | None]:
    """As fast as two producers can, until all is settled."""
    half = scene.size.flood // 2
    loads = [scene.writing("flood", half) for _ in range(2)]
    yield None
    for load in loads:
        load.go_on()
    seconds = max(load.await_written() for load in loads)
    scene.await_finished(2 * (half // 4))
    yield Wrote(2 * half, seconds)


def idle(scene: Scene) -> Iterator[Wrote | None]:
    """Markers only."""
    yield None
    began_at = time.monotonic()
    await_that(lambda: time.monotonic() > began_at + scene.size.idle_s, "the end", END_GUARD_S)
    yield Wrote(0, time.monotonic() - began_at)


SITUATIONS: dict[str, Situation] = {s.__name__: s for s in (aborted, replayed, live, steady, flood, idle)}


def measure(situation: Situation, size: Size, broker: Broker) -> dict[str, Any]:
    """All figures of one situation; times in seconds."""
    topics = [fresh_name(situation.__name__) for _ in range(TOPICS)]
    create_topics(broker.bootstrap, dict.fromkeys(topics, PARTITIONS))
    with TemporaryDirectory() as directory, ExitStack() as ends:
        daemon = Daemon(Path(directory), broker.bootstrap, {"topics": topics, **SECTIONS})
        ends.callback(daemon.end)
        daemon.start().await_ready()
        scene = Scene(size, broker, daemon, topics, situation is live, ends)
        play = situation(scene)
        next(play)
        began_at = time.monotonic()
        with running(*scene.instruments), scene.markers:
            wrote = next(play)
        assert wrote is not None
        return _figures(scene, wrote, time.monotonic() - began_at)


# --- The figures ------------------------------------------------------------------------------------------------------


def _figures(scene: Scene, wrote: Wrote, took_s: float) -> dict[str, Any]:
    stalls = [took for took in scene.pulse.took_s if took > STALL_S]
    after = scene.daemon.all_pids()
    return {
        "records": wrote.records,
        "written_per_s": round(wrote.records / wrote.seconds),
        "took_s": took_s,
        "healthz_s": _spread(as_if_asked(scene.pulse.took_s, ASK_EVERY_S)),
        "healthz_less_cpu_waits_s": _spread(as_if_asked(scene.pulse.took_s, ASK_EVERY_S, scene.pulse.own_s)),
        "healthz_new_connections_s": _spread(as_if_asked(scene.fresh.took_s, ASK_EVERY_S)),
        "metrics_s": _spread(as_if_asked(scene.scrapes.took_s, scene.scrapes.every_s)),
        "produce_to_metrics_s": _spread(scene.markers.latencies(scene.scrapes.looks)),
        "asking_thread_late_s": _spread(scene.pulse.late_s),
        "stalls": {"count": len(stalls), "sum_s": sum(stalls), "longest_s": max(stalls, default=0.0)},
        "aggregator_rss_peak_bytes": usage(after["aggregator"]).most_rss_bytes,
        "restarted": [name for name, pid in scene.pids.items() if after.get(name) != pid],
        "load_average": os.getloadavg()[0],
    }


def as_if_asked(took_s: Sequence[float], every_s: float, own_s: Sequence[float] | None = None) -> list[float]:
    """Round trips, with those that would have begun meanwhile, one each `every_s`. `own_s`: their parts to be told."""
    parts = zip(took_s, own_s or took_s, strict=True)
    return [own * (1 - i * every_s / took) for took, own in parts for i in range(max(1, int(took / every_s)))]


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"times": 0}
    quantiles = {name: quantile(values, q) for name, q in {"p50": 0.5, "p99": 0.99}.items()}
    return {"times": len(values), **quantiles, "max": max(values)}


HEAD = (
    "| situation | records | written/s | `/healthz` p50 / p99 / max, ms | less waits for a CPU | new connections | "
    "`/metrics` | produce to `/metrics` | stalls over 250 ms: times, sum, longest, s | aggregator's peak, MiB | "
    "load average |\n"
    "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
)


def row(name: str, found: dict[str, Any]) -> str:
    """One row of the table, in Markdown."""
    healthz = ("healthz_s", "healthz_less_cpu_waits_s", "healthz_new_connections_s")
    stalls = found["stalls"]
    cells = [
        name + (f" ({', '.join(found['restarted'])} restarted)" if found["restarted"] else ""),
        f"{found['records']:,}",
        f"{found['written_per_s']:,}",
        *(_three(found[spread]) for spread in (*healthz, "metrics_s", "produce_to_metrics_s")),
        f"{stalls['count']}, {stalls['sum_s']:.1f}, {stalls['longest_s']:.1f}" if found["healthz_s"]["times"] else "-",
        f"{found['aggregator_rss_peak_bytes'] / MIB:,.0f}",
        f"{found['load_average']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _three(spread: dict[str, float]) -> str:
    if not spread["times"]:
        return "-"
    return " / ".join(f"{spread[name] * 1000:,.0f}" for name in ("p50", "p99", "max"))


# --- The command ------------------------------------------------------------------------------------------------------


def main() -> int:
    """Entry point; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.latency", description="How long do users wait?")
    parser.add_argument("--quick", action="store_true", help="a tenth of the load")
    parser.add_argument("--situations", nargs="+", choices=SITUATIONS, default=list(SITUATIONS), metavar="NAME")
    parser.add_argument("--runs", type=int, default=1, help="of each situation (%(default)s)")
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    result: dict[str, Any] = {"facts": facts(), "size": size._asdict(), "situations": {}}
    print(HEAD, flush=True)
    RUN_DIR.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=RUN_DIR) as directory:
        libs = ensure_jars(RUN_DIR / "kafka")
        with Broker(Path(directory) / "kafka-data", libs, *machine.free_ports(2), heap="1g") as broker:
            warm_up(broker)
            for name in options.situations * options.runs:
                found = measure(SITUATIONS[name], size, broker)
                result["situations"].setdefault(name, []).append(found)
                print(row(name, found), flush=True)
                if options.out:
                    options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs the benchmark: broker, topics, start-up, yardsticks, variants; then the report.

    make bench                                          all of it: half an hour or so
    .venv/bin/python -m tests.bench --events 200000 --variants main --runs 1

All that it makes lies in .run/bench (the broker's data, kept so that the next run need not fill the topics again) and
in .run/bench.json.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.bench import report
from tests.bench.preload import Advance, Preloaded
from tests.bench.runs import Run, run_empty, run_over
from tests.bench.workload import MAIN, NEVER_CLOSED, VARIANTS, Variant
from tests.bench.yardsticks import YARDSTICKS
from tests.harness.paths import ROOT, RUN_DIR
from txninsightd.tools.stack import machine
from txninsightd.tools.stack.broker import Broker
from txninsightd.tools.stack.jars import ensure_jars

EMPTY = Variant("empty", "no events", 0)
START_UPS = 5


def main() -> int:
    """Entry point; gives the exit code."""
    options = _parser().parse_args()
    if options.fresh:
        rmtree(RUN_DIR / "bench", ignore_errors=True)
    with Bench(options.runs, options.events / MAIN.events) as bench:
        found = bench.measure(options.variants)
    report.publish(found, report.markdown(found), options.json, report.MARKERS if options.docs else None)
    return 0


def _parser() -> argparse.ArgumentParser:
    names = [variant.name for variant in (*VARIANTS, NEVER_CLOSED)]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure what an event costs.")
    parser.add_argument(
        "--events",
        type=int,
        default=MAIN.events,
        help="of the main variant; the others shrink alike (%(default)s)",
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each variant; medians are reported (%(default)s)")
    parser.add_argument("--variants", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--json", type=Path, default=RUN_DIR / "bench.json", help="where the figures go (%(default)s)")
    parser.add_argument(
        "--docs", action="store_true", help=f"write the tables into {report.DOCS.relative_to(ROOT)} too"
    )
    parser.add_argument("--fresh", action="store_true", help="fill the topics anew")
    return parser


class Bench:
    """A broker with filled topics, and a bar that moves. `scale` shrinks every variant."""

    def __init__(self, runs: int, scale: float) -> None:
        self._runs = runs
        self._scale = scale
        libs = ensure_jars(RUN_DIR / "kafka")
        port, controller_port = machine.free_ports(2)
        self._broker = Broker(RUN_DIR / "bench" / "kafka-data", libs, port, controller_port, heap="1g")
        self._preloaded = Preloaded(self._broker)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))

    def __enter__(self) -> "Bench":
        self._broker.start()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._broker.stop()

    def measure(self, names: Iterable[str]) -> dict[str, object]:
        """Fill and measure the variants of these names."""
        wanted = set(names)
        variants = [self._scaled(variant) for variant in VARIANTS if variant.name in wanted]
        startup = [self._start_up(i) for i in range(START_UPS)]
        yardsticks = self._yardsticks(self._scaled(MAIN)) if MAIN.name in wanted else {}
        measured = [report.Measured(variant, self._run_all(variant)) for variant in variants]
        never_closed = self._scaled(NEVER_CLOSED)
        waiting = report.Measured(never_closed, self._run_all(never_closed)) if NEVER_CLOSED.name in wanted else None
        return report.figures(startup, measured, waiting, yardsticks)

    def _scaled(self, variant: Variant) -> Variant:
        return replace(variant, events=max(1000, int(variant.events * self._scale)))

    def _topics(self, variant: Variant) -> list[str]:
        """The variant's topics, filled now or before."""
        by_name = {v.name: self._scaled(v) for v in VARIANTS}
        filled = by_name.get(variant.data_of, variant)
        with self._task(f"fill {filled.name}", filled.records) as advance:
            return self._preloaded.topics(filled, advance)

    def _run_all(self, variant: Variant) -> list[Run]:
        topics, runs = self._topics(variant), []
        for i in range(self._runs):
            with self._task(f"{variant.name} {i + 1}/{self._runs}", variant.records) as advance:
                runs.append(run_over(variant, self._broker.bootstrap, topics, advance))
        return runs

    def _start_up(self, serial: int) -> Run:
        [topic] = self._preloaded.topics(EMPTY, lambda _: None)
        with self._task(f"start-up {serial + 1}/{START_UPS}", 1) as advance:
            run = run_empty(self._broker.bootstrap, topic)
            advance(1)
        return run

    def _yardsticks(self, variant: Variant) -> dict[str, list[float]]:
        topics = self._topics(variant)
        found: dict[str, list[float]] = {name: [] for name in YARDSTICKS}
        with self._task("yardsticks", self._runs * len(found)) as advance:
            for name in list(found) * self._runs:
                found[name].append(_yardstick(name, self._broker.bootstrap, variant.records, topics))
                advance(1)
        return found

    @contextmanager
    def _task(self, what: str, steps: int) -> Iterator[Advance]:
        task = self._progress.add_task(what, total=steps)
        yield lambda n: self._progress.advance(task, n)
        self._progress.update(task, completed=steps)


def _yardstick(name: str, bootstrap: str, events: int, topics: list[str]) -> float:
    command = [sys.executable, "-m", "tests.bench.yardsticks", name, bootstrap, str(events), *topics]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    sys.exit(main())

"""Runs a soak: a broker of its own, the installed daemon, an hour; then the result.

    make soak                                       an hour at 5,000 events/s
    make soak SOAK_MINUTES=2 SOAK_RATE=1000         a quick look

Ctrl-C ends the load early, and gives the result so far; once more ends it at once. What it makes lies in .run/soak; the
result is .run/soak.json and .run/soak.md.

A terminal sends Ctrl-C to every program in its foreground, and broker and daemon would stop by themselves. So the soak
forks, and the part that works leaves the foreground; the part that stays only passes signals on.
"""

import argparse
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from shutil import rmtree
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.bench.report import MIB
from tests.harness.paths import RUN_DIR
from tests.soak import report
from tests.soak.experiment import Plan, Sample, Seen, Soak
from txninsightd.tools.stack import machine
from txninsightd.tools.stack.broker import Broker
from txninsightd.tools.stack.jars import ensure_jars

OPEN_AT_ONCE = 5_000
SAMPLES = 600
EVERY_S = (1.0, 10.0)
REMEMBERED_IDS = 200_000
"""Full within five minutes at 5,000 events/s; the default would take hours to fill."""


def main() -> int:
    """Entry point; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="What grows under a steady load?")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (%(default)s)")
    parser.add_argument("--rate", type=float, default=5000.0, help="records a second (%(default)s)")
    options = parser.parse_args()
    worker = os.fork()
    if worker:
        return _stand_before(worker)
    os.setpgid(0, 0)
    code = 1
    try:
        code = _work(_plan(options.minutes, options.rate))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def _stand_before(worker: int) -> int:
    """Pass signals on to the worker until it ends; gives its exit code."""

    def pass_on(number: int, _: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(worker, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])


def _plan(minutes: float, rate: float) -> Plan:
    every_s = min(max(minutes * 60 / SAMPLES, EVERY_S[0]), EVERY_S[1])
    return Plan(minutes, rate, OPEN_AT_ONCE, every_s, limits={"remembered_ids": REMEMBERED_IDS}, state={})


def _work(plan: Plan) -> int:
    directory = RUN_DIR / "soak"
    rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    libs = ensure_jars(RUN_DIR / "kafka")
    with Broker(directory / "kafka-data", libs, *machine.free_ports(2), heap="1g") as broker:
        soak = Soak(plan, broker, directory)
        _stop_on_signals(soak)
        failure = None
        try:
            _with_progress(soak)
        except (Exception, KeyboardInterrupt) as caught:
            failure = caught
    _tell(soak.seen, failure)
    return 1 if failure or soak.seen.differences or soak.seen.restarted else 0


def _stop_on_signals(soak: Soak) -> None:
    def stop(number: int, _: object) -> None:
        if soak.stop.is_set():
            raise KeyboardInterrupt
        soak.seen.stopped_by = signal.Signals(number).name
        soak.stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _with_progress(soak: Soak) -> Seen:
    plan = soak.seen.plan
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=plan.minutes * 60)

        def tell(sample: Sample) -> None:
            rss = sample.processes["aggregator"].rss_bytes / MIB
            text = f"{sample.read:,} events, {sample.lag:,} behind, {sample.open:,} open, aggregator {rss:.0f} MiB"
            progress.update(task, completed=sample.at_s, description=text)

        return soak.run(tell)


def _tell(seen: Seen, failure: BaseException | None) -> None:
    found = {"ended_by": repr(failure) if failure else None, **report.figures(seen)}
    tables = report.markdown(found)
    (RUN_DIR / "soak.json").write_text(json.dumps(found, indent=1) + "\n")
    (RUN_DIR / "soak.md").write_text(tables + "\n")
    Console().print(tables, markup=False, highlight=False, soft_wrap=True)
    if failure:
        print(f"ended before its time: {failure!r}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

"""txninsight-sim: generates traffic and its truth from a scenario and a seed.

It writes `events.jsonl`, which `txninsight-replay` publishes to a real Kafka, and `truth.jsonl`, which holds what the
daemon must report for each transaction. The same scenario and seed give the same bytes on any machine. Time is virtual:
an hour of traffic takes seconds. Exit codes: 0 success; 2 an invalid scenario or option, or a truth that the scenario
does not expect; 130 Ctrl-C.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from txninsightd import __version__
from txninsightd.tools.simulation.clock import run
from txninsightd.tools.simulation.engine import Limits, run_scenario
from txninsightd.tools.simulation.output import Lines
from txninsightd.tools.simulation.scenario import Scenario, daemon_config, load_scenario
from txninsightd.tools.simulation.truth import Truth
from txninsightd.tools.simulation.validation_errors import BadScenario
from txninsightd.visible_text import visible

LINES_PER_TICK = 5000
"""How many lines are written between two updates of the progress bar."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as in shells."""

SHOWN = 5
"""At most so many contradictions are printed; the rest is only counted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        scenario = load_scenario(options.scenario)
        truth, lines = simulate(options, scenario)
    except BadScenario as bad:
        print("\n".join(bad.problems), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"txninsight-sim: cannot write {error.filename or 'the output'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("txninsight-sim: stopped; the files are incomplete", file=sys.stderr)
        return INTERRUPTED
    return _report(options, truth, lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="txninsight-sim",
        description="Turn a scenario into events.jsonl (for txninsight-replay) and truth.jsonl (the expected results). "
        "The same scenario and seed give the same bytes.",
        epilog="docs/simulator.md describes the form of a scenario; scenarios/ has examples to start from.",
    )
    parser.add_argument("scenario", type=Path, metavar="SCENARIO", help="the scenario, a YAML file")
    parser.add_argument("--seed", type=int, metavar="N", help="the seed (default: the scenario's own)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="the directory of events.jsonl and truth.jsonl (default: .)",
    )
    parser.add_argument("--events", metavar="FILE", help="write the events to this file instead; - is standard output")
    parser.add_argument("--truth", metavar="FILE", help="write the truth to this file instead; - is standard output")
    parser.add_argument("--transactions", type=_positive_int, metavar="N", help="start N transactions in all")
    parser.add_argument("--duration", type=_positive, metavar="S", help="start transactions for S virtual seconds")
    parser.add_argument(
        "--daemon-config",
        metavar="FILE",
        help="also write the sections of the daemon's config under which the truth holds",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary; errors only")
    parser.add_argument("--version", action="version", version=f"txninsight-sim {__version__}")
    return parser


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return number


def _positive_int(text: str) -> int:
    number = _positive(text)
    if number != int(number):
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}")
    return int(number)


def _limits(options: argparse.Namespace, scenario: Scenario) -> Limits:
    """Limits of the command line replace both limits of the scenario, even if only one is given."""
    if options.duration is None and options.transactions is None:
        return Limits(scenario.duration_s, scenario.transactions)
    return Limits(options.duration, options.transactions)


def simulate(options: argparse.Namespace, scenario: Scenario) -> tuple[Truth, Lines]:
    """Run the scenario and write all files. Raises OSError, and BadScenario for errors that only a run finds."""
    seed = scenario.seed if options.seed is None else options.seed
    limits = _limits(options, scenario)
    with ExitStack() as files:
        events = _opened(options.events, options.out / "events.jsonl", files)
        verdicts = _opened(options.truth, options.out / "truth.jsonl", files)
        if options.daemon_config is not None:
            config = _opened(options.daemon_config, Path(), files)
            config.write(yaml.safe_dump(daemon_config(scenario), sort_keys=False).encode())
        encode = msgspec.json.Encoder().encode
        lines = Lines(events.write)
        truth = Truth(scenario, lambda line: verdicts.write(encode(line) + b"\n"), lambda: lines.last_at)
        tick = _progress(options, scenario, limits, truth, files)
        lines.progress = (LINES_PER_TICK, tick)
        try:
            run(run_scenario(scenario, seed, limits, lines, truth))
        # Flows run in a TaskGroup, which wraps their exceptions.
        except ExceptionGroup as group:
            raise _first(group) from None
    return truth, lines


def _first(error: Exception) -> Exception:
    """The first error of a (nested) group."""
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _opened(name: str | None, default: Path, files: ExitStack) -> BinaryIO:
    if name == "-":
        return sys.stdout.buffer
    path = default if name is None else Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return files.enter_context(path.open("wb"))


def _progress(
    options: argparse.Namespace, scenario: Scenario, limits: Limits, truth: Truth, files: ExitStack
) -> Callable[[float, int], Any]:
    console = Console(stderr=True)
    if options.quiet or not console.is_terminal:
        return lambda at, count: None
    columns = (BarColumn(), TextColumn("{task.description}: {task.fields[lines]} lines"), TimeElapsedColumn())
    bar = files.enter_context(Progress(*columns, console=console, transient=True))
    task = bar.add_task(scenario.name, total=limits.transactions or limits.duration_s, lines=0)

    def tick(at: float, count: int) -> None:
        done = truth.totals.transactions if limits.transactions else at - scenario.epoch
        bar.update(task, completed=done, lines=count)

    return tick


def _report(options: argparse.Namespace, truth: Truth, lines: Lines) -> int:
    borderline = truth.totals.borderline
    if not options.quiet:
        print(f"{lines.count} lines, {truth.totals.transactions} transactions", file=sys.stderr)
        if borderline:
            print(
                f"{len(borderline)} transactions are borderline (a replay's jitter could change their results): "
                f"{', '.join(borderline[:SHOWN])}",
                file=sys.stderr,
            )
    if not truth.contradictions:
        return 0
    print(f"{options.scenario}: {len(truth.contradictions)} transactions contradict its expectations:", file=sys.stderr)
    print("\n".join(map(visible, truth.contradictions[:SHOWN])), file=sys.stderr)
    print("Correct the failure's 'expected', or the input beside it.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

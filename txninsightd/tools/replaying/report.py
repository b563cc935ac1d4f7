"""What the operator sees, on stderr: a progress bar on a terminal, bad lines by number, a summary at the end."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from txninsightd.tools.replaying import conductor
from txninsightd.tools.replaying.plan import Survey
from txninsightd.tools.replaying.tally import Board, Tally

REFRESH_S = 0.1
_LINES_A_LOOK = 5000


@dataclass(frozen=True)
class Ending:
    """How a replay ended. Moments are epoch seconds; `shift_s` is what was added to timestamps."""

    found: Survey
    tally: Tally
    progress: conductor.Progress
    interrupted: bool
    started_at: float
    ended_at: float
    shift_s: int
    created_topics: list[str]

    @property
    def exit_code(self) -> int:
        """0: all published; 1: with errors; 130: interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.tally.errors else 0

    def summary(self) -> dict[str, Any]:
        """Everything as a JSON object."""
        counts = msgspec.structs.asdict(self.tally)
        del counts["late_s"]
        return counts | {
            "exit_code": self.exit_code,
            "lines": self.found.lines,
            "bad_lines": self.found.bad.count,
            "interrupted": self.interrupted,
            "last_line": self.progress.line,
            "last_at": self.progress.at,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "shift_s": self.shift_s,
            "created_topics": self.created_topics,
            "timing_error_p50_s": self.tally.late_quantile_s(0.5),
            "timing_error_p99_s": self.tally.late_quantile_s(0.99),
        }


class Display:
    """Writes to one console. `bar` contexts show nothing where the console is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """One message, as it is."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def bad_lines(self, found: Survey, *, skipped: bool) -> None:
        """The first bad lines by number and reason, and how many there are."""
        for number, reason in found.bad.named:
            self.say(f"line {number}: {reason}")
        if found.bad.count:
            what = "skipped" if skipped else "nothing was published; without --strict they are skipped"
            self.say(f"{found.bad.count} of {found.lines} lines cannot be used: {what}")

    def surveying(self, lines: Iterable[bytes], total_bytes: int) -> Iterator[bytes]:
        """The lines, while a bar shows how many of the bytes have been read."""
        with self._bar("reading", total_bytes) as (bar, task):
            unseen = 0
            for number, line in enumerate(lines):
                unseen += len(line)
                if number % _LINES_A_LOOK == 0:
                    bar.advance(task, unseen)
                    unseen = 0
                yield line

    @contextmanager
    def publishing(self, found: Survey, board: Board) -> Iterator["PublishingBar"]:
        """A bar over all lines, to be moved by `PublishingBar.show`."""
        with self._bar("publishing", found.lines) as (bar, task):
            yield PublishingBar(bar, task, board)

    def ending(self, ending: Ending) -> None:
        """The summary, and where it stopped if it was interrupted."""
        if ending.interrupted:
            self.say(
                f"stopped after line {ending.progress.line} of {ending.found.lines} (at {ending.progress.at:.15g}); "
                f"{ending.tally.aborted_at_stop} open Kafka transactions were aborted"
            )
        for reason, count in sorted(ending.tally.reasons.items(), key=lambda item: -item[1]):
            self.say(f"{count} x {reason}")
        self._console.print(_table(ending))

    @contextmanager
    def _bar(self, what: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        shown = self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=not shown) as bar:
            yield bar, bar.add_task(what, total=total, note="")


class PublishingBar:
    """Moves the bar, a few times a second at most."""

    def __init__(self, bar: Progress, task: TaskID, board: Board) -> None:
        self._bar = bar
        self._task = task
        self._board = board
        self._shown = 0.0

    def show(self, progress: conductor.Progress) -> None:
        """Called after each batch."""
        now = time.monotonic()
        if now - self._shown < REFRESH_S:
            return
        self._shown = now
        counts = self._board.sum
        note = f"{counts.records} records, {counts.errors} errors"
        self._bar.update(self._task, completed=progress.line, note=note)


def write_summary(path: Path, ending: Ending) -> None:
    """The summary as JSON in a file. Raises OSError."""
    path.write_text(json.dumps(ending.summary(), indent=2) + "\n", encoding="utf-8")


def _table(ending: Ending) -> Table:
    table = Table(show_header=False)
    tally = ending.tally
    seconds = max(ending.ended_at - ending.started_at, 1e-3)
    table.add_row("records published", f"{tally.records} in {seconds:.1f} s ({tally.records / seconds:.0f}/s)")
    table.add_row("Kafka transactions", f"{tally.commits} committed, {tally.aborts} aborted, {tally.crashes} crashed")
    table.add_row("delivery errors", str(tally.delivery_errors))
    table.add_row("transaction errors", str(tally.transaction_errors))
    table.add_row("bad lines skipped", str(ending.found.bad.count))
    if tally.unpublished:
        table.add_row("handed over, not published", str(tally.unpublished))
    if tally.left_open:
        table.add_row("left open", f"{tally.left_open} (the broker aborts them after their time-out)")
    table.add_row("timestamps shifted by", f"{ending.shift_s} s")
    table.add_row("timing error p50, p99", _timing(tally))
    return table


def _timing(tally: Tally) -> str:
    p50, p99 = tally.late_quantile_s(0.5), tally.late_quantile_s(0.99)
    if p50 is None or p99 is None:
        return "no timing was kept (--speed max)"
    return f"{p50 * 1000:.2f} ms, {p99 * 1000:.2f} ms"

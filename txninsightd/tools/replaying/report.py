"""Output for the operator, on stderr: a progress bar on a terminal, bad lines by number, and a final summary."""

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

from txninsightd.tools.replaying import dispatcher
from txninsightd.tools.replaying.counts import Counts, Totals
from txninsightd.tools.replaying.plan import Survey
from txninsightd.visible_text import visible_lines

REFRESH_S = 0.1
_LINES_A_LOOK = 5000


@dataclass(frozen=True)
class ReplayResult:
    """The result of a replay. Times are epoch seconds; `shift_s` was added to timestamps."""

    found: Survey
    counts: Counts
    progress: dispatcher.Progress
    interrupted: bool
    started_at: float
    ended_at: float
    shift_s: int
    created_topics: list[str]

    @property
    def unpublished(self) -> int:
        """The good lines that a stop kept from being published, dispatched or not."""
        return self.counts.unpublished + self.found.events - self.progress.dispatched

    @property
    def exit_code(self) -> int:
        """0: all published; 1: with errors; 130: interrupted."""
        if self.interrupted:
            return 130
        return 1 if self.counts.errors else 0

    def summary(self) -> dict[str, Any]:
        """The summary as a JSON object."""
        counts = msgspec.structs.asdict(self.counts)
        del counts["delays_s"]
        return counts | {
            "unpublished": self.unpublished,
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
            "timing_error_p50_s": self.counts.delay_quantile_s(0.5),
            "timing_error_p99_s": self.counts.delay_quantile_s(0.99),
        }


class Display:
    """Writes to one console. Progress bars appear only on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """Print one message without markup. It may quote the file that is replayed."""
        self._console.print(visible_lines(text), markup=False, highlight=False, soft_wrap=True)

    def bad_lines(self, found: Survey, *, skipped: bool) -> None:
        """Print the first bad lines with number and reason, and the number of bad lines."""
        for number, reason in found.bad.named:
            self.say(f"line {number}: {reason}")
        if found.bad.count:
            what = "skipped" if skipped else "nothing was published; without --strict they are skipped"
            self.say(f"{found.bad.count} of {found.lines} lines are bad: {what}")

    def surveying(self, lines: Iterable[bytes], total_bytes: int) -> Iterator[bytes]:
        """Yield the lines while a bar shows the bytes read."""
        with self._bar("reading", total_bytes) as (bar, task):
            unseen = 0
            for number, line in enumerate(lines):
                unseen += len(line)
                if number % _LINES_A_LOOK == 0:
                    bar.advance(task, unseen)
                    unseen = 0
                yield line

    @contextmanager
    def publishing(self, found: Survey, totals: Totals) -> Iterator["PublishingBar"]:
        """A bar over all lines; `PublishingBar.show` moves it."""
        with self._bar("publishing", found.lines) as (bar, task):
            yield PublishingBar(bar, task, totals)

    def show_result(self, result: ReplayResult) -> None:
        """Print the summary, and the last line if the replay was interrupted."""
        if result.interrupted:
            self.say(
                f"stopped after line {result.progress.line} of {result.found.lines} (at {result.progress.at:.15g}); "
                f"{result.unpublished} lines were not published; "
                f"{result.counts.aborted_at_stop} open Kafka transactions were aborted"
            )
        for reason, count in sorted(result.counts.reasons.items(), key=lambda item: -item[1]):
            self.say(f"{count} x {reason}")
        self._console.print(_table(result))

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
    """Moves the bar at most ten times a second."""

    def __init__(self, bar: Progress, task: TaskID, totals: Totals) -> None:
        self._bar = bar
        self._task = task
        self._totals = totals
        self._shown = 0.0

    def show(self, progress: dispatcher.Progress) -> None:
        """Update the bar; called after each batch."""
        now = time.monotonic()
        if now - self._shown < REFRESH_S:
            return
        self._shown = now
        counts = self._totals.sum
        note = f"{counts.records} records, {counts.errors} errors"
        self._bar.update(self._task, completed=progress.line, note=note)


def write_summary(path: Path, result: ReplayResult) -> None:
    """Write the summary as JSON. Raises OSError."""
    path.write_text(json.dumps(result.summary(), indent=2) + "\n", encoding="utf-8")


def _table(result: ReplayResult) -> Table:
    table = Table(show_header=False)
    counts = result.counts
    seconds = max(result.ended_at - result.started_at, 1e-3)
    table.add_row("records published", f"{counts.records} in {seconds:.1f} s ({counts.records / seconds:.0f}/s)")
    table.add_row(
        "Kafka transactions", f"{counts.commits} committed, {counts.aborts} aborted, {counts.crashes} crashed"
    )
    table.add_row("delivery errors", str(counts.delivery_errors))
    table.add_row("transaction errors", str(counts.transaction_errors))
    table.add_row("bad lines skipped", str(result.found.bad.count))
    if result.unpublished:
        table.add_row("lines not published", str(result.unpublished))
    if counts.left_open:
        table.add_row("left open", f"{counts.left_open} (the broker aborts them after their time-out)")
    table.add_row("timestamps shifted by", f"{result.shift_s} s")
    table.add_row("timing error p50, p99", _timing(counts))
    return table


def _timing(counts: Counts) -> str:
    p50, p99 = counts.delay_quantile_s(0.5), counts.delay_quantile_s(0.99)
    if p50 is None or p99 is None:
        return "no timing (--speed max)"
    return f"{p50 * 1000:.2f} ms, {p99 * 1000:.2f} ms"

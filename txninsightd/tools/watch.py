"""The live view of a running daemon in a terminal: counts by state, rates, stuck transactions and why, alerts, changes.

It queries the daemon's HTTP API and /metrics once a second, like any other client. A `Snapshot` holds the answers. A
`LiveView` takes one snapshot after the other and adds the rates over some seconds and a log of changes. Where the
output is not a terminal, it prints a plain line every few seconds, and one for each alert. The alerts come from the
record of the local stack's receivers. Where no daemon answers, it says so once, and waits.

    python -m txninsightd.tools.watch http://127.0.0.1:9840 --alerts .run/log/alerts.jsonl
"""

import argparse
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from txninsightd.tools.receivers import Message, read_record
from txninsightd.visible_text import visible
from txninsightd.vocabulary import Outcome, State

REFRESH_EVERY_S = 1.0
PLAIN_LINE_EVERY_S = 5.0
RATE_WINDOW_S = 5.0
TIMEOUT_S = 10.0
LISTED = 1000
STUCK_SHOWN = 6
LOG_SHOWN = 30
ALERTS_SHOWN = 10
ADVICE = "start the daemon (make up), or give its address as an argument; waiting for it"

STUCK = "stuck"
LIVE_STATES = (State.OPEN, State.TENTATIVELY_CLOSED, STUCK, State.ABORTED)
OUTCOMES = (Outcome.CLOSED, Outcome.ABORTED, Outcome.UNKNOWN)
COLOURS = {
    State.OPEN: "cyan",
    State.TENTATIVELY_CLOSED: "blue",
    State.CLOSED: "green",
    State.ABORTED: "yellow",
    State.UNKNOWN: "magenta",
    STUCK: "bold red",
}
RESOLVED = "resolved"
ALERT_COLOURS = {RESOLVED: "green", "critical": "bold red", "error": "bold red", "warning": "yellow", "info": "cyan"}

Sample = tuple[str, dict[str, str], float]


class TransactionSummary(msgspec.Struct, frozen=True):
    """The fields of a transaction's summary that the view shows."""

    txn_id: str
    state: str
    txn_type: str | None = None
    stuck: bool = False
    cause: str | None = None
    stuck_since: float | None = None
    age_s: float | None = None

    @property
    def label(self) -> str:
        """Its state in words, with the cause if it is stuck."""
        return f"{STUCK} ({self.cause})" if self.stuck else self.state.replace("_", " ")

    @property
    def colour(self) -> str:
        """The colour of its state."""
        return COLOURS.get(STUCK if self.stuck else self.state, "white")


class Listing(msgspec.Struct, frozen=True):
    """An answer of /api/v1/transactions."""

    transactions: list[TransactionSummary]


class Detail(msgspec.Struct, frozen=True):
    """The fields of /api/v1/transactions/{txn_id} that the view shows."""

    why: str


class Readiness(msgspec.Struct, frozen=True):
    """The answer of /readyz: what keeps the daemon from being ready, in words."""

    missing: list[str] = []

    def __str__(self) -> str:
        """In words; empty when it is ready."""
        others = f", and {len(self.missing) - 1} more (GET /readyz)" if len(self.missing) > 1 else ""
        return f"not ready: {visible(self.missing[0])}{others}" if self.missing else ""


class Snapshot(msgspec.Struct, frozen=True):
    """The daemon's answers at one moment. `whys` has an explanation for some stuck transactions, by txn_id."""

    at: float
    samples: list[Sample]
    transactions: list[TransactionSummary]
    stuck: list[TransactionSummary]
    whys: dict[str, str] = {}
    readiness: Readiness = Readiness()

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        return sum(value for sample, own, value in self.samples if sample == name and labels.items() <= own.items())

    def txn_types(self) -> list[str]:
        """All transaction types in the metrics."""
        return sorted({labels["txn_type"] for _, labels, _ in self.samples if "txn_type" in labels})


class Client:
    """Queries one daemon. Methods raise OSError or HTTPException when it does not answer, or that of a decoder."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._whys: dict[tuple[str, str | None], str] = {}

    def fetch(self, now: float) -> Snapshot:
        """Fetch everything that the view shows. An explanation is fetched once per transaction and cause."""
        stuck = sorted(self.list(f"state={STUCK}&limit={LISTED}"), key=lambda txn: -(txn.stuck_since or 0.0))
        # Rebuilt from the old one each time, which drops transactions that are no longer shown.
        self._whys = {(txn.txn_id, txn.cause): self._why(txn) for txn in stuck[:STUCK_SHOWN]}
        return Snapshot(
            at=now,
            samples=parse_samples(self._get("/metrics").decode()),
            transactions=self.list(f"limit={LISTED}"),
            stuck=stuck,
            whys={txn_id: why for (txn_id, _), why in self._whys.items()},
            readiness=self.readiness(),
        )

    def readiness(self) -> Readiness:
        """Whether the daemon is ready."""
        try:
            body = self._get("/readyz")
        except HTTPError as error:
            if error.code != 503:
                raise
            body = error.read()
        return msgspec.json.decode(body, type=Readiness)

    def list(self, query: str) -> list[TransactionSummary]:
        """The transactions of the API for this query."""
        return msgspec.json.decode(self._get(f"/api/v1/transactions?{query}"), type=Listing).transactions

    def _why(self, txn: TransactionSummary) -> str:
        known = self._whys.get((txn.txn_id, txn.cause))
        return self._detail(txn.txn_id) if known is None else known

    def _detail(self, txn_id: str) -> str:
        try:
            return msgspec.json.decode(self._get(f"/api/v1/transactions/{quote(txn_id, safe='')}"), type=Detail).why
        except HTTPError as error:
            if error.code == 404:
                return "no longer known"
            raise

    def _get(self, path: str) -> bytes:
        with urlopen(self.url + path, timeout=TIMEOUT_S) as response:
            body: bytes = response.read()
            return body


def parse_samples(text: str) -> list[Sample]:
    """Parse a page in Prometheus' text format into (name, labels, value)."""
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


class LiveView:
    """The content of the view: the last snapshot, rates, sent alerts, and the last changes.

    `record` is the file in which the local receivers store alerts; `footer` has more addresses to show.
    """

    def __init__(self, url: str, record: Path | None = None, footer: str = "") -> None:
        self.url = url
        self.record = record
        self.footer = footer
        self.alerts: list[Message] = []
        self.snapshot: Snapshot | None = None
        self.error: str | None = None
        self.began_at: float | None = None
        self._recent: deque[Snapshot] = deque()
        self._log: deque[Text] = deque(maxlen=LOG_SHOWN)
        self._labels: dict[str, str] = {}

    def update(self, snapshot: Snapshot) -> None:
        """Take a newer snapshot."""
        self.error = None
        self.began_at = snapshot.at if self.began_at is None else self.began_at
        for txn in snapshot.transactions:
            self._note(txn, snapshot.at)
        self._labels = {txn.txn_id: txn.label for txn in snapshot.transactions}
        self._recent.append(snapshot)
        # Keep at least two: a rate needs both.
        while self._recent[-1].at - self._recent[0].at > RATE_WINDOW_S and len(self._recent) > 2:
            self._recent.popleft()
        self.snapshot = snapshot

    def read_alerts(self) -> None:
        """Read the receivers' record."""
        if self.record is not None:
            self.alerts = read_record(self.record)

    def set_error(self, error: str) -> None:
        """Show that the daemon did not answer, beside its last answers."""
        self.error = visible(error)

    def rate(self, name: str, **labels: str) -> float:
        """A counter's increase per second over the last `RATE_WINDOW_S`."""
        if len(self._recent) < 2:
            return 0.0
        first, last = self._recent[0], self._recent[-1]
        return (last.total(name, **labels) - first.total(name, **labels)) / (last.at - first.at)

    def render(self) -> RenderableType:
        """The view for a whole terminal. Each part is cut at its lower end if it does not fit."""
        if self.snapshot is None:
            return Text(self.error or f"connecting to {self.url} ...", style="dim")
        counts = counts_table(self.snapshot)
        places = [f"{self.url}/api/v1/transactions   {self.url}/metrics", *([self.footer] if self.footer else [])]
        layout = Layout()
        layout.split_column(
            Layout(self._headline(), size=1),
            Layout(counts, size=counts.row_count + 6),
            Layout(stuck_panel(self.snapshot), ratio=3),
            Layout(alerts_panel(self.alerts), ratio=2, visible=self.record is not None),
            Layout(self._log_panel(), ratio=2),
            Layout(Text("\n".join(places), style="dim"), size=len(places)),
        )
        return layout

    def plain_line(self) -> str:
        """The view as one line."""
        if self.snapshot is None or self.began_at is None:
            return self.error or f"connecting to {self.url} ..."
        snapshot = self.snapshot
        causes = Counter(txn.cause for txn in snapshot.stuck)
        live = ", ".join(f"{_state_name(state)} {_live_count(snapshot, state):.0f}" for state in LIVE_STATES)
        named = " (" + ", ".join(f"{cause} {n}" for cause, n in sorted(causes.items(), key=str)) + ")" if causes else ""
        ended = ", ".join(f"{outcome} {_finished(snapshot, outcome):.0f}" for outcome in OUTCOMES)
        line = f"{snapshot.at - self.began_at:4.0f} s: now {live}{named}; ended {ended}; {self._rates()}"
        return "; ".join([line, *self._troubles()])

    def _troubles(self) -> list[str]:
        """Why the figures may not be the latest."""
        not_ready = str(self.snapshot.readiness) if self.snapshot is not None else ""
        return [self.error] if self.error else [not_ready] if not_ready else []

    def _note(self, txn: TransactionSummary, at: float) -> None:
        before = self._labels.get(txn.txn_id)
        if before == txn.label:
            return
        moment = time.strftime("%H:%M:%S", time.localtime(at))
        change = "" if before is None else f" {before} →"
        self._log.append(Text.assemble((moment, "dim"), f"  {visible(txn.txn_id)} {change} ", (txn.label, txn.colour)))

    def _rates(self) -> str:
        events = self.rate("txninsight_records_total", view="monitor", result="ok")
        closed = self.rate("txninsight_transactions_finished_total", outcome=Outcome.CLOSED)
        return f"{events:.0f} events/s, {closed:.1f} closed/s"

    def _headline(self) -> Text:
        line = Text("txninsightd", style="bold").append(f"   {self._rates()}", style="default")
        for trouble in self._troubles():
            line.append(f"   {trouble}", style="bold red")
        return line

    def _log_panel(self) -> Panel:
        return Panel(Group(*reversed(self._log)), title="changes, newest first", title_align="left")


def counts_table(snapshot: Snapshot) -> Table:
    """Counts by type: live transactions by state, and ended ones by outcome."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), expand=True)
    table.add_column("type")
    live = [
        f"{_state_name(state)}, to retry" if state == State.ABORTED else _state_name(state) for state in LIVE_STATES
    ]
    for name in (*live, *(f"ended {outcome}" for outcome in OUTCOMES)):
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))
    txn_types = snapshot.txn_types()
    for txn_type in txn_types:
        # A Text, since rich takes a cell of str for markup.
        table.add_row(Text(visible(txn_type)), *_cells(snapshot, txn_type=txn_type))
    table.add_section()
    table.add_row("all", *_cells(snapshot), style="bold")
    return table


def stuck_panel(snapshot: Snapshot) -> Panel:
    """The newest stuck transactions, each with its cause and explanation."""
    shown = snapshot.stuck[:STUCK_SHOWN]
    title = f"stuck: {len(snapshot.stuck)}, newest first"
    return Panel(Group(*(_stuck(txn, snapshot) for txn in shown)), title=title, title_align="left")


def alerts_panel(alerts: list[Message]) -> Panel:
    """The sent alerts, the newest first."""
    lines = (_alert(message) for message in reversed(alerts[-ALERTS_SHOWN:]))
    title = f"alerts sent: {len(alerts)}, newest first"
    return Panel(Group(*lines), title=title, title_align="left")


def _alert(message: Message) -> Text:
    word = RESOLVED if message.is_resolved else message.severity
    moment = time.strftime("%H:%M:%S", time.localtime(message.at))
    line = Text.assemble((moment, "dim"), f"  {message.receiver:<9}  ", (f"{word:<8}", ALERT_COLOURS[word]))
    line.append(f"  {message.summary}")
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _stuck(txn: TransactionSummary, snapshot: Snapshot) -> Text:
    line = Text(visible(txn.txn_id), style="bold").append(f"  {txn.cause}", style=txn.colour)
    if txn.stuck_since is not None:
        line.append(f"  {snapshot.at - txn.stuck_since:.0f} s", style="default")
    return line.append(f"  {visible(snapshot.whys.get(txn.txn_id, ''))}", style="not bold")


def _cells(snapshot: Snapshot, **labels: str) -> Iterator[Text]:
    for state in LIVE_STATES:
        yield _count(_live_count(snapshot, state, **labels), COLOURS[state])
    for outcome in OUTCOMES:
        yield _count(_finished(snapshot, outcome, **labels), COLOURS[State(outcome)])


def _count(value: float, colour: str) -> Text:
    return Text(f"{value:.0f}", style=colour if value else "dim")


def _live_count(snapshot: Snapshot, state: str, **labels: str) -> float:
    return snapshot.total("txninsight_transactions", state=state, **labels)


def _finished(snapshot: Snapshot, outcome: str, **labels: str) -> float:
    return snapshot.total("txninsight_transactions_finished_total", outcome=outcome, **labels)


def _state_name(state: str) -> str:
    return state.replace("_", " ")


def watch(client: Client, view: LiveView, console: Console, is_done: Callable[[], bool]) -> None:
    """Refresh the view once a second until `is_done`, which is called after each refresh."""
    with _full_screen(console) if console.is_terminal else _line_by_line(console) as show:
        while True:
            began = time.monotonic()
            _refresh(client, view)
            show(view)
            if is_done():
                return
            time.sleep(max(0.0, REFRESH_EVERY_S - (time.monotonic() - began)))


def _refresh(client: Client, view: LiveView) -> None:
    try:
        view.update(client.fetch(time.time()))
    except (OSError, HTTPException) as error:
        view.set_error(f"no answer from {client.url}: {_reason(error)}; {ADVICE}")
    except (ValueError, msgspec.MsgspecError) as error:
        view.set_error(f"no txninsightd answers at {client.url}: {error}; {ADVICE}")
    view.read_alerts()


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason)


@contextmanager
def _full_screen(console: Console) -> Iterator[Callable[[LiveView], None]]:
    with Live(console=console, auto_refresh=False, screen=True) as live:
        yield lambda view: live.update(view.render(), refresh=True)


@contextmanager
def _line_by_line(console: Console) -> Iterator[Callable[[LiveView], None]]:
    due = 0.0
    printed = 0
    was_silent = False

    def show(view: LiveView) -> None:
        nonlocal due, printed, was_silent
        for message in view.alerts[printed:]:
            console.print(f"alert: {message.line}", soft_wrap=True, highlight=False, markup=False)
        printed = len(view.alerts)
        is_silent = view.error is not None
        # A daemon that does not answer is told once, and so is that it answers again.
        if is_silent != was_silent or (not is_silent and time.monotonic() >= due):
            console.print(view.plain_line(), soft_wrap=True, highlight=False, markup=False)
            due = time.monotonic() + PLAIN_LINE_EVERY_S
        was_silent = is_silent

    yield show


def main(argv: list[str] | None = None) -> int:
    """Watch until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="watch", description="The live view of a running txninsightd.")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:9840", help="the address of its API (%(default)s)")
    parser.add_argument("--alerts", type=Path, metavar="FILE", help="the record of the local stack's receivers")
    arguments = parser.parse_args(argv)
    with suppress(KeyboardInterrupt):
        watch(Client(arguments.url), LiveView(arguments.url, arguments.alerts), Console(), lambda: False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

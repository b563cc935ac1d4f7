"""The live view of a running daemon in a terminal: counts by state, rates, who is stuck and why, alerts, transitions.

It asks the daemon's HTTP API and /metrics once a second, like any other client, and knows nothing that they do not
say. What came back is an `Answers`; a `Picture` takes one after the other and keeps what it needs beyond the last:
rates over some seconds, and a log of what changed from one answer to the next. Where the output is no terminal, a
plain line is printed every few seconds instead, and one for each alert. Alerts are those that reached the local stack's
receivers, from the record that these keep.

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
from txninsightd.vocabulary import Outcome, State

ASK_EVERY_S = 1.0
PLAIN_LINE_EVERY_S = 5.0
RATE_WINDOW_S = 5.0
TIMEOUT_S = 10.0
LISTED = 1000
STUCK_SHOWN = 6
LOG_SHOWN = 30
ALERTS_SHOWN = 10

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


class Seen(msgspec.Struct, frozen=True):
    """What the view uses of a transaction's summary in the API."""

    txn_id: str
    state: str
    txn_type: str | None = None
    stuck: bool = False
    cause: str | None = None
    stuck_since: float | None = None
    age_s: float | None = None

    @property
    def label(self) -> str:
        """Its state in words; a stuck one's with the cause."""
        return f"{STUCK} ({self.cause})" if self.stuck else self.state.replace("_", " ")

    @property
    def colour(self) -> str:
        """The colour of its state."""
        return COLOURS.get(STUCK if self.stuck else self.state, "white")


class Listing(msgspec.Struct, frozen=True):
    """An answer of /api/v1/transactions."""

    transactions: list[Seen]


class Detail(msgspec.Struct, frozen=True):
    """What the view uses of an answer of /api/v1/transactions/{txn_id}."""

    why: str


class Answers(msgspec.Struct, frozen=True):
    """All that was asked at one moment. `whys` has a sentence for some of the stuck ones, by txn_id."""

    at: float
    samples: list[Sample]
    transactions: list[Seen]
    stuck: list[Seen]
    whys: dict[str, str] = {}

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        return sum(value for sample, own, value in self.samples if sample == name and labels.items() <= own.items())

    def txn_types(self) -> list[str]:
        """Every transaction type that the metrics name."""
        return sorted({labels["txn_type"] for _, labels, _ in self.samples if "txn_type" in labels})


class Client:
    """Asks one daemon. Every method raises OSError or HTTPException when it does not answer."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._whys: dict[tuple[str, str | None], str] = {}

    def ask(self, now: float) -> Answers:
        """Everything that the view shows. A why is asked once for each transaction and cause."""
        stuck = sorted(self.list(f"state={STUCK}&limit={LISTED}"), key=lambda seen: -(seen.stuck_since or 0.0))
        # Made anew each time, out of the last: whoever is not shown any more is forgotten.
        self._whys = {(seen.txn_id, seen.cause): self._why(seen) for seen in stuck[:STUCK_SHOWN]}
        return Answers(
            at=now,
            samples=parse_samples(self._get("/metrics").decode()),
            transactions=self.list(f"limit={LISTED}"),
            stuck=stuck,
            whys={txn_id: why for (txn_id, _), why in self._whys.items()},
        )

    def list(self, query: str) -> list[Seen]:
        """The transactions that the API gives for this query."""
        return msgspec.json.decode(self._get(f"/api/v1/transactions?{query}"), type=Listing).transactions

    def _why(self, seen: Seen) -> str:
        known = self._whys.get((seen.txn_id, seen.cause))
        return self._detail(seen.txn_id) if known is None else known

    def _detail(self, txn_id: str) -> str:
        try:
            return msgspec.json.decode(self._get(f"/api/v1/transactions/{quote(txn_id, safe='')}"), type=Detail).why
        except HTTPError as error:
            if error.code == 404:
                return "gone meanwhile"
            raise

    def _get(self, path: str) -> bytes:
        with urlopen(self.url + path, timeout=TIMEOUT_S) as response:
            body: bytes = response.read()
            return body


def parse_samples(text: str) -> list[Sample]:
    """The samples of a page in Prometheus' text format, as (name, labels, value)."""
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


class Picture:
    """What is shown: the last answers, the rates up to them, the alerts that were sent, and the last transitions.

    `record` is the file in which the local receivers write down what reaches them; `also` are more addresses to show.
    """

    def __init__(self, url: str, record: Path | None = None, also: str = "") -> None:
        self.url = url
        self.record = record
        self.also = also
        self.alerts: list[Message] = []
        self.answers: Answers | None = None
        self.trouble: str | None = None
        self.began_at: float | None = None
        self._recent: deque[Answers] = deque()
        self._log: deque[Text] = deque(maxlen=LOG_SHOWN)
        self._labels: dict[str, str] = {}

    def take(self, answers: Answers) -> None:
        """Move on to newer answers."""
        self.trouble = None
        self.began_at = answers.at if self.began_at is None else self.began_at
        for seen in answers.transactions:
            self._note(seen, answers.at)
        self._labels = {seen.txn_id: seen.label for seen in answers.transactions}
        self._recent.append(answers)
        # Two stay, however far apart: a rate needs both.
        while self._recent[-1].at - self._recent[0].at > RATE_WINDOW_S and len(self._recent) > 2:
            self._recent.popleft()
        self.answers = answers

    def take_alerts(self) -> None:
        """Read what has reached the receivers so far."""
        if self.record is not None:
            self.alerts = read_record(self.record)

    def lose(self, trouble: str) -> None:
        """The daemon did not answer: say so, and keep showing what it said last."""
        self.trouble = trouble

    def rate(self, name: str, **labels: str) -> float:
        """A counter's growth in a second, over the last `RATE_WINDOW_S`."""
        if len(self._recent) < 2:
            return 0.0
        first, last = self._recent[0], self._recent[-1]
        return (last.total(name, **labels) - first.total(name, **labels)) / (last.at - first.at)

    def render(self) -> RenderableType:
        """The picture for a whole terminal: what does not fit is cut below, part by part."""
        if self.answers is None:
            return Text(self.trouble or f"asking {self.url} ...", style="dim")
        counts = counts_table(self.answers)
        places = [f"{self.url}/api/v1/transactions   {self.url}/metrics", *([self.also] if self.also else [])]
        layout = Layout()
        layout.split_column(
            Layout(self._headline(), size=1),
            Layout(counts, size=counts.row_count + 6),
            Layout(stuck_panel(self.answers), ratio=3),
            Layout(alerts_panel(self.alerts), ratio=2, visible=self.record is not None),
            Layout(self._log_panel(), ratio=2),
            Layout(Text("\n".join(places), style="dim"), size=len(places)),
        )
        return layout

    def plain_line(self) -> str:
        """The same in one line."""
        if self.answers is None or self.began_at is None:
            return self.trouble or f"asking {self.url} ..."
        answers = self.answers
        causes = Counter(seen.cause for seen in answers.stuck)
        live = ", ".join(f"{_words(state)} {_living(answers, state):.0f}" for state in LIVE_STATES)
        named = " (" + ", ".join(f"{cause} {n}" for cause, n in sorted(causes.items(), key=str)) + ")" if causes else ""
        ended = ", ".join(f"{outcome} {_finished(answers, outcome):.0f}" for outcome in OUTCOMES)
        line = f"{answers.at - self.began_at:4.0f} s: now {live}{named}; ended {ended}; {self._rates()}"
        return f"{line}; {self.trouble}" if self.trouble else line

    def _note(self, seen: Seen, at: float) -> None:
        before = self._labels.get(seen.txn_id)
        if before == seen.label:
            return
        moment = time.strftime("%H:%M:%S", time.localtime(at))
        change = "" if before is None else f" {before} →"
        self._log.append(Text.assemble((moment, "dim"), f"  {seen.txn_id} {change} ", (seen.label, seen.colour)))

    def _rates(self) -> str:
        events = self.rate("txninsight_records_total", view="monitor", result="ok")
        closed = self.rate("txninsight_transactions_finished_total", outcome=Outcome.CLOSED)
        return f"{events:.0f} events/s, {closed:.1f} closed/s"

    def _headline(self) -> Text:
        line = Text("txninsightd", style="bold").append(f"   {self._rates()}", style="default")
        return line.append(f"   {self.trouble}", style="bold red") if self.trouble else line

    def _log_panel(self) -> Panel:
        return Panel(Group(*reversed(self._log)), title="what changed, the newest first", title_align="left")


def counts_table(answers: Answers) -> Table:
    """Counts by type and state: what is live now, and how many ended how."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), expand=True)
    table.add_column("type")
    live = [f"{_words(state)}, to retry" if state == State.ABORTED else _words(state) for state in LIVE_STATES]
    for name in (*live, *(f"ended {outcome}" for outcome in OUTCOMES)):
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))
    txn_types = answers.txn_types()
    for txn_type in txn_types:
        table.add_row(txn_type, *_cells(answers, txn_type=txn_type))
    table.add_section()
    table.add_row("all", *_cells(answers), style="bold")
    return table


def stuck_panel(answers: Answers) -> Panel:
    """The newest stuck ones, each with its cause and why."""
    shown = answers.stuck[:STUCK_SHOWN]
    title = f"stuck: {len(answers.stuck)}, the newest first"
    return Panel(Group(*(_stuck(seen, answers) for seen in shown)), title=title, title_align="left")


def alerts_panel(alerts: list[Message]) -> Panel:
    """What was sent to people, the newest first."""
    lines = (_alert(message) for message in reversed(alerts[-ALERTS_SHOWN:]))
    title = f"alerts sent: {len(alerts)}, the newest first"
    return Panel(Group(*lines), title=title, title_align="left")


def _alert(message: Message) -> Text:
    word = RESOLVED if message.is_resolved else message.severity
    moment = time.strftime("%H:%M:%S", time.localtime(message.at))
    line = Text.assemble((moment, "dim"), f"  {message.receiver:<9}  ", (f"{word:<8}", ALERT_COLOURS[word]))
    line.append(f"  {message.summary}")
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _stuck(seen: Seen, answers: Answers) -> Text:
    line = Text(seen.txn_id, style="bold").append(f"  {seen.cause}", style=seen.colour)
    if seen.stuck_since is not None:
        line.append(f"  {answers.at - seen.stuck_since:.0f} s", style="default")
    return line.append(f"  {answers.whys.get(seen.txn_id, '')}", style="not bold")


def _cells(answers: Answers, **labels: str) -> Iterator[Text]:
    for state in LIVE_STATES:
        yield _count(_living(answers, state, **labels), COLOURS[state])
    for outcome in OUTCOMES:
        yield _count(_finished(answers, outcome, **labels), COLOURS[State(outcome)])


def _count(value: float, colour: str) -> Text:
    return Text(f"{value:.0f}", style=colour if value else "dim")


def _living(answers: Answers, state: str, **labels: str) -> float:
    return answers.total("txninsight_transactions", state=state, **labels)


def _finished(answers: Answers, outcome: str, **labels: str) -> float:
    return answers.total("txninsight_transactions_finished_total", outcome=outcome, **labels)


def _words(state: str) -> str:
    return state.replace("_", " ")


def watch(client: Client, picture: Picture, console: Console, is_over: Callable[[], bool]) -> None:
    """Ask the daemon once a second and show the picture, until `is_over` says so, asked after each."""
    with _full_screen(console) if console.is_terminal else _line_by_line(console) as show:
        while True:
            began = time.monotonic()
            _move_on(client, picture)
            show(picture)
            if is_over():
                return
            time.sleep(max(0.0, ASK_EVERY_S - (time.monotonic() - began)))


def _move_on(client: Client, picture: Picture) -> None:
    try:
        picture.take(client.ask(time.time()))
    except (OSError, HTTPException) as error:
        picture.lose(f"no answer from {client.url}: {error}")
    picture.take_alerts()


@contextmanager
def _full_screen(console: Console) -> Iterator[Callable[[Picture], None]]:
    with Live(console=console, auto_refresh=False, screen=True) as live:
        yield lambda picture: live.update(picture.render(), refresh=True)


@contextmanager
def _line_by_line(console: Console) -> Iterator[Callable[[Picture], None]]:
    due = 0.0
    printed = 0

    def show(picture: Picture) -> None:
        nonlocal due, printed
        for message in picture.alerts[printed:]:
            console.print(f"alert: {message.line}", soft_wrap=True, highlight=False, markup=False)
        printed = len(picture.alerts)
        if time.monotonic() >= due:
            console.print(picture.plain_line(), soft_wrap=True, highlight=False, markup=False)
            due = time.monotonic() + PLAIN_LINE_EVERY_S

    yield show


def main(argv: list[str] | None = None) -> int:
    """Watch until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="watch", description="The live view of a running txninsightd.")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:9840", help="where its API is (%(default)s)")
    parser.add_argument("--alerts", type=Path, metavar="FILE", help="the record of the local stack's receivers")
    arguments = parser.parse_args(argv)
    with suppress(KeyboardInterrupt):
        watch(Client(arguments.url), Picture(arguments.url, arguments.alerts), Console(), lambda: False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

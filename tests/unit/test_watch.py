"""The live view, from answers as the daemon gives them."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import msgspec
import pytest
from rich.console import Console

from txninsightd.tools import watch
from txninsightd.tools.receivers import Message
from txninsightd.tools.watch import Answers, Client, Picture, Seen, parse_samples

METRICS = """\
# HELP txninsight_transactions Transactions that are in this state now.
# TYPE txninsight_transactions gauge
txninsight_transactions{txn_type="order",state="open"} 12
txninsight_transactions{txn_type="order",state="tentatively_closed"} 3
txninsight_transactions{txn_type="order",state="stuck"} 2
txninsight_transactions{txn_type="order",state="aborted"} 1
txninsight_transactions{txn_type="refund",state="open"} 5
# HELP txninsight_transactions_finished_total Transactions that ended.
# TYPE txninsight_transactions_finished_total counter
txninsight_transactions_finished_total{txn_type="order",outcome="closed",status="ok"} 40
txninsight_transactions_finished_total{txn_type="order",outcome="closed",status="declined"} 2
txninsight_transactions_finished_total{txn_type="order",outcome="aborted",status=""} 7
# HELP txninsight_records_total Records that a view has read.
# TYPE txninsight_records_total counter
txninsight_records_total{view="monitor",topic="orders",result="ok"} 1000
txninsight_records_total{view="validator",topic="orders",result="ok"} 900
"""
IDLE = Seen(txn_id="o-1", txn_type="order", state="open", stuck=True, cause="idle", stuck_since=990.0)
BLOCKED = Seen(
    txn_id="o-2", txn_type="order", state="tentatively_closed", stuck=True, cause="undecided", stuck_since=995.0
)


def answers(at: float = 1000.0, *, metrics: str = METRICS, transactions: tuple[Seen, ...] = ()) -> Answers:
    whys = {"o-1": "no event for 10 s, its type's limit is 5 s"}
    return Answers(
        at=at, samples=parse_samples(metrics), transactions=list(transactions), stuck=[BLOCKED, IDLE], whys=whys
    )


def rendered(picture: Picture) -> str:
    console = Console(file=io.StringIO(), width=80, height=50, force_terminal=False)
    console.print(picture.render())
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


def row(text: str, first_cell: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [first_cell])


def test_counts_stand_by_type_and_state() -> None:
    picture = Picture("http://daemon")
    picture.take(answers())
    text = rendered(picture)
    assert row(text, "order") == ["order", "12", "3", "2", "1", "42", "7", "0"]
    assert row(text, "refund") == ["refund", "5", "0", "0", "0", "0", "0", "0"]
    assert row(text, "all") == ["all", "17", "3", "2", "1", "42", "7", "0"]


def test_stuck_ones_stand_with_cause_age_and_why() -> None:
    picture = Picture("http://daemon")
    picture.take(answers())
    text = rendered(picture)
    newest, oldest = (line.strip("│ ") for line in text.splitlines() if "o-" in line)
    assert newest == "o-2  undecided  5 s"
    assert oldest == "o-1  idle  10 s  no event for 10 s, its type's limit is 5 s"
    assert "http://daemon/metrics" in text


def test_what_changed_is_logged_once() -> None:
    picture = Picture("http://daemon")
    opened = Seen(txn_id="o-9", state="open")
    for at, seen in enumerate([opened, opened, Seen(txn_id="o-9", state="tentatively_closed")]):
        picture.take(answers(1000.0 + at, transactions=(seen,)))
    picture.take(answers(1003.0, transactions=(Seen(txn_id="o-9", state="open", stuck=True, cause="idle"),)))
    log = [line.strip("│ ")[8:].split() for line in rendered(picture).splitlines() if "o-9" in line]
    assert [" ".join(words) for words in log] == [
        "o-9 tentatively closed → stuck (idle)",
        "o-9 open → tentatively closed",
        "o-9 open",
    ]


def test_rates_are_growth_over_the_window() -> None:
    picture = Picture("http://daemon")
    picture.take(answers(1000.0))
    picture.take(
        answers(1004.0, metrics=METRICS.replace("} 1000", "} 1200").replace('status="ok"} 40', 'status="ok"} 50'))
    )
    assert "50 events/s, 2.5 closed/s" in rendered(picture)


def test_rates_forget_what_lies_before_the_window() -> None:
    picture = Picture("http://daemon")
    for at, records in ((1000.0, 0), (1010.0, 1000), (1012.0, 1000), (1014.0, 1000)):
        picture.take(answers(at, metrics=METRICS.replace("} 1000", f"}} {records}")))
    assert picture.rate("txninsight_records_total", view="monitor") == 0.0


def test_a_daemon_that_falls_silent_is_said_so_and_its_last_words_stay() -> None:
    picture = Picture("http://daemon")
    picture.take(answers())
    picture.lose("no answer from http://daemon: refused")
    text = rendered(picture)
    assert "no answer from http://daemon: refused" in text
    assert row(text, "all")[1] == "17"


def test_the_plain_line_has_states_causes_endings_and_rates() -> None:
    picture = Picture("http://daemon")
    assert picture.plain_line() == "asking http://daemon ..."
    picture.take(answers())
    assert picture.plain_line() == (
        "   0 s: now open 17, tentatively closed 3, stuck 2, aborted 1 (idle 1, undecided 1); "
        "ended closed 42, aborted 7, unknown 0; 0 events/s, 0.0 closed/s"
    )


def alert(at: float, action: str, summary: str) -> Message:
    payload = {"summary": summary, "severity": "critical", "source": "127.0.0.1:9840"}
    return Message(at=at, receiver="pagerduty", body={"event_action": action, "payload": payload})


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.jsonl"
    messages = [alert(1000.0, "trigger", "2 order newly stuck"), alert(1010.0, "resolve", "2 order newly stuck")]
    path.write_bytes(b"".join(msgspec.json.encode(message) + b"\n" for message in messages))
    return path


def test_alerts_stand_with_receiver_and_severity_the_newest_first(record: Path) -> None:
    picture = Picture("http://daemon", record, "http://prometheus   http://alertmanager")
    picture.take(answers())
    assert "alerts sent: 0" in rendered(picture)
    picture.take_alerts()
    text = rendered(picture)
    lines = [line.strip("│ ").split(maxsplit=1)[1] for line in text.splitlines() if "pagerduty" in line]
    assert lines == ["pagerduty  resolved  2 order newly stuck", "pagerduty  critical  2 order newly stuck"]
    assert "alerts sent: 2" in text
    assert text.split()[-4:] == [
        *("http://daemon/api/v1/transactions", "http://daemon/metrics", "http://prometheus", "http://alertmanager"),
    ]


def test_without_a_record_there_is_no_panel_of_alerts() -> None:
    picture = Picture("http://daemon")
    picture.take(answers())
    picture.take_alerts()
    assert "alerts sent" not in rendered(picture)


def test_a_long_alert_takes_one_line(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(msgspec.json.encode(alert(1000.0, "trigger", "long " * 100)) + b"\n")
    picture = Picture("http://daemon", path)
    picture.take(answers())
    picture.take_alerts()
    assert [line[-4:] for line in rendered(picture).splitlines() if "long" in line] == ["g… │"]


def summary(seen: Seen) -> dict[str, object]:
    return {
        "txn_id": seen.txn_id,
        "state": seen.state,
        "stuck": seen.stuck,
        "cause": seen.cause,
        "stuck_since": seen.stuck_since,
        "attempts": 1,
    }


PAGES: dict[str, object] = {
    "/metrics": METRICS,
    "/api/v1/transactions?state=stuck&limit=1000": {"transactions": [summary(IDLE), summary(BLOCKED)], "matched": 2},
    "/api/v1/transactions?limit=1000": {"transactions": [summary(IDLE), summary(BLOCKED)], "matched": 2},
    "/api/v1/transactions/o-1": {**summary(IDLE), "timeline": [], "why": "silent"},
}


@contextmanager
def served(pages: dict[str, object]) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            page = pages.get(self.path)
            self.send_response(200 if page is not None else 404)
            self.end_headers()
            self.wfile.write((page if isinstance(page, str) else json.dumps(page)).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_the_client_asks_for_all_and_for_each_why_once() -> None:
    with served(PAGES) as (url, asked):
        client = Client(url)
        client.ask(1000.0)
        got = client.ask(1001.0)
    assert [seen.txn_id for seen in got.stuck] == ["o-2", "o-1"], "the newest first"
    assert got.whys == {"o-1": "silent", "o-2": "gone meanwhile"}
    assert got.total("txninsight_transactions", state="open") == 17
    assert asked.count("/api/v1/transactions/o-1") == 1


def until(count: int) -> Callable[[], bool]:
    asked = iter(range(1, count + 1))
    return lambda: next(asked) == count


def test_without_a_terminal_lines_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ASK_EVERY_S", 0.0)
    output = io.StringIO()
    with served(PAGES) as (url, _):
        watch.watch(Client(url), Picture(url), Console(file=output), until(3))
    assert len(output.getvalue().splitlines()) == 1, "one line for all that happens within five seconds"
    assert output.getvalue().startswith("   0 s: now open 17")


def test_without_a_terminal_each_alert_is_a_line_at_once(monkeypatch: pytest.MonkeyPatch, record: Path) -> None:
    monkeypatch.setattr(watch, "ASK_EVERY_S", 0.0)
    output = io.StringIO()
    with served(PAGES) as (url, _):
        watch.watch(Client(url), Picture(url, record), Console(file=output), until(3))
    lines = [line for line in output.getvalue().splitlines() if line.startswith("alert: ")]
    assert [line.split(" ", 2)[2] for line in lines] == [
        "pagerduty critical 2 order newly stuck",
        "pagerduty resolved 2 order newly stuck",
    ]


def test_on_a_terminal_the_picture_fills_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ASK_EVERY_S", 0.0)
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, height=40)
    with served(PAGES) as (url, _):
        watch.watch(Client(url), Picture(url), console, until(2))
    assert "undecided" in output.getvalue()


def test_a_daemon_that_is_not_there_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ASK_EVERY_S", 0.0)
    output = io.StringIO()
    with served({}) as (url, _):
        pass
    watch.watch(Client(url), Picture(url), Console(file=output), until(1))
    assert f"no answer from {url}" in output.getvalue()

"""The live view, from snapshot as the daemon gives them."""

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

from tests.harness.daemon import Daemon
from tests.harness.hostile_text import unsafe
from tests.harness.http import free_port
from txninsightd.tools import watch
from txninsightd.tools.receivers import Message
from txninsightd.tools.watch import Client, LiveView, Readiness, Snapshot, TransactionSummary, parse_samples

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
IDLE = TransactionSummary(txn_id="o-1", txn_type="order", state="open", stuck=True, cause="idle", stuck_since=990.0)
BLOCKED = TransactionSummary(
    txn_id="o-2", txn_type="order", state="tentatively_closed", stuck=True, cause="undecided", stuck_since=995.0
)


def snapshot(
    at: float = 1000.0, *, metrics: str = METRICS, transactions: tuple[TransactionSummary, ...] = ()
) -> Snapshot:
    whys = {"o-1": "no event for 10 s, its type's limit is 5 s"}
    return Snapshot(
        at=at, samples=parse_samples(metrics), transactions=list(transactions), stuck=[BLOCKED, IDLE], whys=whys
    )


def rendered(view: LiveView, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, height=50, force_terminal=False)
    console.print(view.render())
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


def row(text: str, first_cell: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [first_cell])


def test_counts_stand_by_type_and_state() -> None:
    view = LiveView("http://daemon")
    view.update(snapshot())
    text = rendered(view)
    assert row(text, "order") == ["order", "12", "3", "2", "1", "42", "7", "0"]
    assert row(text, "refund") == ["refund", "5", "0", "0", "0", "0", "0", "0"]
    assert row(text, "all") == ["all", "17", "3", "2", "1", "42", "7", "0"]


def test_stuck_ones_stand_with_cause_age_and_why() -> None:
    view = LiveView("http://daemon")
    view.update(snapshot())
    text = rendered(view)
    newest, oldest = (line.strip("│ ") for line in text.splitlines() if "o-" in line)
    assert newest == "o-2  undecided  5 s"
    assert oldest == "o-1  idle  10 s  no event for 10 s, its type's limit is 5 s"
    assert "http://daemon/metrics" in text


def test_what_events_say_is_text_and_neither_markup_nor_an_order_to_the_terminal() -> None:
    view = LiveView("http://daemon")
    hostile = "[red]x[/] [/] [link=http://a]y\x1b[2J\x9b\n\u202e"
    shown = "[red]x[/] [/] [link=http://a]y\\x1b[2J\\x9b\\x0a\\u202e"
    metrics = 'txninsight_transactions{txn_type="[/]",state="open"} 12\n'
    txn = msgspec.structs.replace(IDLE, txn_id=hostile)
    given = msgspec.structs.replace(
        snapshot(metrics=metrics, transactions=(txn,)), stuck=[txn], whys={hostile: f"its {hostile}"}
    )
    view.update(given)
    view.set_error("\x1b[2J")
    text = rendered(view, width=200)
    assert unsafe(text) == set()
    assert row(text, "[/]")[1] == "12"
    assert [line.count(shown) for line in text.splitlines() if shown in line] == [2, 1]
    assert unsafe(view.plain_line()) == set()


def test_what_changed_is_logged_once() -> None:
    view = LiveView("http://daemon")
    opened = TransactionSummary(txn_id="o-9", state="open")
    for at, txn in enumerate([opened, opened, TransactionSummary(txn_id="o-9", state="tentatively_closed")]):
        view.update(snapshot(1000.0 + at, transactions=(txn,)))
    view.update(
        snapshot(1003.0, transactions=(TransactionSummary(txn_id="o-9", state="open", stuck=True, cause="idle"),))
    )
    log = [line.strip("│ ")[8:].split() for line in rendered(view).splitlines() if "o-9" in line]
    assert [" ".join(words) for words in log] == [
        "o-9 tentatively closed → stuck (idle)",
        "o-9 open → tentatively closed",
        "o-9 open",
    ]


def test_rates_are_growth_over_the_window() -> None:
    view = LiveView("http://daemon")
    view.update(snapshot(1000.0))
    view.update(
        snapshot(1004.0, metrics=METRICS.replace("} 1000", "} 1200").replace('status="ok"} 40', 'status="ok"} 50'))
    )
    assert "50 events/s, 2.5 closed/s" in rendered(view)


def test_rates_forget_what_lies_before_the_window() -> None:
    view = LiveView("http://daemon")
    for at, records in ((1000.0, 0), (1010.0, 1000), (1012.0, 1000), (1014.0, 1000)):
        view.update(snapshot(at, metrics=METRICS.replace("} 1000", f"}} {records}")))
    assert view.rate("txninsight_records_total", view="monitor") == 0.0


def test_a_daemon_that_falls_silent_is_said_so_and_its_last_words_stay() -> None:
    view = LiveView("http://daemon")
    view.update(snapshot())
    view.set_error("no answer from http://daemon: refused")
    text = rendered(view)
    assert "no answer from http://daemon: refused" in text
    assert row(text, "all")[1] == "17"


def test_the_plain_line_has_states_causes_endings_and_rates() -> None:
    view = LiveView("http://daemon")
    assert view.plain_line() == "connecting to http://daemon ..."
    view.update(snapshot())
    assert view.plain_line() == (
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
    view = LiveView("http://daemon", record, "http://prometheus   http://alertmanager")
    view.update(snapshot())
    assert "alerts sent: 0" in rendered(view)
    view.read_alerts()
    text = rendered(view)
    lines = [line.strip("│ ").split(maxsplit=1)[1] for line in text.splitlines() if "pagerduty" in line]
    assert lines == ["pagerduty  resolved  2 order newly stuck", "pagerduty  critical  2 order newly stuck"]
    assert "alerts sent: 2" in text
    assert text.split()[-4:] == [
        *("http://daemon/api/v1/transactions", "http://daemon/metrics", "http://prometheus", "http://alertmanager"),
    ]


def test_without_a_record_there_is_no_panel_of_alerts() -> None:
    view = LiveView("http://daemon")
    view.update(snapshot())
    view.read_alerts()
    assert "alerts sent" not in rendered(view)


def test_a_long_alert_takes_one_line(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(msgspec.json.encode(alert(1000.0, "trigger", "long " * 100)) + b"\n")
    view = LiveView("http://daemon", path)
    view.update(snapshot())
    view.read_alerts()
    assert [line[-4:] for line in rendered(view).splitlines() if "long" in line] == ["g… │"]


def summary(txn: TransactionSummary) -> dict[str, object]:
    return {
        "txn_id": txn.txn_id,
        "state": txn.state,
        "stuck": txn.stuck,
        "cause": txn.cause,
        "stuck_since": txn.stuck_since,
        "attempts": 1,
    }


PAGES: dict[str, object] = {
    "/metrics": METRICS,
    "/readyz": {"ready": True, "missing": []},
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
        client.fetch(1000.0)
        got = client.fetch(1001.0)
    assert [txn.txn_id for txn in got.stuck] == ["o-2", "o-1"], "the newest first"
    assert got.whys == {"o-1": "silent", "o-2": "no longer known"}
    assert got.total("txninsight_transactions", state="open") == 17
    assert asked.count("/api/v1/transactions/o-1") == 1


def until(count: int) -> Callable[[], bool]:
    asked = iter(range(1, count + 1))
    return lambda: next(asked) == count


def test_without_a_terminal_lines_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "REFRESH_EVERY_S", 0.0)
    output = io.StringIO()
    with served(PAGES) as (url, _):
        watch.watch(Client(url), LiveView(url), Console(file=output), until(3))
    assert len(output.getvalue().splitlines()) == 1, "one line for all that happens within five seconds"
    assert output.getvalue().startswith("   0 s: now open 17")


def test_without_a_terminal_each_alert_is_a_line_at_once(monkeypatch: pytest.MonkeyPatch, record: Path) -> None:
    monkeypatch.setattr(watch, "REFRESH_EVERY_S", 0.0)
    output = io.StringIO()
    with served(PAGES) as (url, _):
        watch.watch(Client(url), LiveView(url, record), Console(file=output), until(3))
    lines = [line for line in output.getvalue().splitlines() if line.startswith("alert: ")]
    assert [line.split(" ", 2)[2] for line in lines] == [
        "pagerduty critical 2 order newly stuck",
        "pagerduty resolved 2 order newly stuck",
    ]


def test_on_a_terminal_the_picture_fills_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "REFRESH_EVERY_S", 0.0)
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, height=40)
    with served(PAGES) as (url, _):
        watch.watch(Client(url), LiveView(url), console, until(2))
    assert "undecided" in output.getvalue()


def test_one_that_is_not_ready_says_why() -> None:
    view = LiveView("http://daemon")
    missing = ["the cluster does not answer: timed\x1b[2J out", "the monitor has seen nothing newer than 20 s"]
    view.update(msgspec.structs.replace(snapshot(), readiness=Readiness(missing)))
    expected = "not ready: the cluster does not answer: timed\\x1b[2J out, and 1 more (GET /readyz)"
    assert view.plain_line().endswith(f"0 events/s, 0.0 closed/s; {expected}")
    assert "not ready: the cluster does not answer" in rendered(view)


@pytest.mark.slow
def test_it_tells_that_the_real_daemon_is_not_ready(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, f"127.0.0.1:{free_port()}", {"topics": ["t"]}).start()
    try:
        daemon.await_that(
            lambda: daemon.status("/readyz") == 503 and "does not answer" in str(daemon.missing()), "it asked"
        )
        got = Client(f"http://127.0.0.1:{daemon.port}").fetch(1000.0)
        assert any("does not answer" in text for text in got.readiness.missing)
    finally:
        daemon.end()


def test_a_daemon_that_is_not_there_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "REFRESH_EVERY_S", 0.0)
    monkeypatch.setattr(watch, "PLAIN_LINE_EVERY_S", 0.0)
    output = io.StringIO()
    with served({}) as (url, _):
        pass
    watch.watch(Client(url), LiveView(url), Console(file=output), until(20))
    refused = f"no answer from {url}: Connection refused"
    assert output.getvalue() == f"{refused}; {watch.ADVICE}\n"


def test_one_that_answers_again_is_shown_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "REFRESH_EVERY_S", 0.0)
    output = io.StringIO()
    pages: dict[str, object] = {}
    asked = iter(range(1, 11))

    def is_done() -> bool:
        number = next(asked)
        pages.update(PAGES if number == 5 else {})
        return number == 10

    with served(pages) as (url, _):
        watch.watch(Client(url), LiveView(url), Console(file=output), is_done)
    silent, again = output.getvalue().splitlines()
    assert silent == f"no answer from {url}: Not Found; {watch.ADVICE}"
    assert again.startswith("   0 s: now open 17")


def test_another_program_at_the_address_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "REFRESH_EVERY_S", 0.0)
    output = io.StringIO()
    with served(dict.fromkeys(PAGES, "<html>")) as (url, _):
        watch.watch(Client(url), LiveView(url), Console(file=output), until(3))
    (line,) = output.getvalue().splitlines()
    assert line.startswith(f"no txninsightd answers at {url}: ")

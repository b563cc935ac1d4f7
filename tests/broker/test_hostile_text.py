"""The real Prometheus scrapes what hostile events left behind: promtool accepts pages that the server refuses.

One target is a daemon on a real broker, in OpenMetrics, which Prometheus prefers, with exemplars; one is its page in
the text format. Two more are pages of a ledger without Kafka, whose topics have names that no broker allows.
"""

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

from tests.expose.test_hostile_text import FORMATS, counted
from tests.harness.expose_world import World, ask
from tests.harness.fixtures import MakeTopic, Start
from tests.harness.hostile_text import SHOWN
from tests.harness.kafka import TransactionalWriter
from tests.harness.prometheus import TargetPrometheus
from tests.harness.raw_headers import write_with_header
from txninsightd.tools.stack.broker import Broker

SECTIONS = {
    "state": {"settle_lateness_s": 1, "retry_grace_s": 0.5, "checkpoint_every_s": 1},
    "metrics": {"duration_buckets_s": [1, 60]},
}

SCRAPE_EVERY_S = 3
"""Enough for a page of 120 types on a busy machine."""

FINISHED = "txninsight_transactions_finished_total"


class Page(NamedTuple):
    """An answer."""

    content_type: str
    body: bytes


HALF_CHARACTERS = ("\\ud83d", "\\ude00", "\\ud83d\\u0041")
"""As they stand in JSON. A pair of them would be a character."""


class PageServer(ThreadingHTTPServer):
    """Answers every GET with this page."""

    def __init__(self, page: Page) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", page.content_type)
                self.send_header("Content-Length", str(len(page.body)))
                self.end_headers()
                self.wfile.write(page.body)

            def log_request(self, *_: object) -> None:
                """Say nothing of it."""

        super().__init__(("127.0.0.1", 0), Handler)
        Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *failure: object) -> None:
        self.shutdown()
        super().__exit__(*failure)


def events(text: str) -> list[str]:
    """One whole transaction that says this wherever it can say anything."""
    say = {"txn_id": f"id {text}", "txn_type": text, "ts": time.time()}
    return [
        json.dumps({"event": "transaction_open", **say}),
        json.dumps({"event": "step_open", "step": text, **say}),
        json.dumps({"event": "step_done", "step": text, **say}),
        json.dumps({"event": "transaction_close", "status": text, **say}),
    ]


def quoted(label: str) -> str:
    """A label's value as PromQL writes it, whose parser takes U+FFFD for a fault."""
    return '"' + label.replace("\\", "\\\\").replace('"', '\\"').replace("\ufffd", "\\ufffd") + '"'


def answered(world: World, accept: str) -> Page:
    answer = ask(world, "/metrics", Accept=accept)
    return Page(answer.headers["Content-Type"], answer.body)


def fetched(port: int, accept: str) -> Page:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return Page(answer.headers["Content-Type"], answer.read())


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_prometheus_scrapes_whatever_events_said(
    broker: Broker, topic: MakeTopic, start: Start, tmp_path: Path, ends: ExitStack
) -> None:
    name = topic()
    writer = TransactionalWriter(broker)
    writer.committed(name, *(event for text in SHOWN for event in events(text)))
    halves = [f'{{"event": "transaction_open", "txn_id": "{half}", "ts": {time.time()}}}' for half in HALF_CHARACTERS]
    writer.committed(name, *halves)
    # A reader died of this one.
    write_with_header(broker.bootstrap, name, events("plain")[0].encode(), b"\xff\xfe")
    daemon = start(name).await_ready()
    world = counted([(f"id {text}", text, text, text, text) for text in SHOWN])
    daemon.await_total(len(SHOWN), FINISHED, outcome="closed")
    assert daemon.total("txninsight_records_total", view="monitor", result="malformed") == len(HALF_CHARACTERS)
    assert daemon.total("txninsight_records_total", view="monitor", result="ok") == 4 * len(SHOWN) + 1
    pages = [fetched(daemon.port, FORMATS[0]), *(answered(world, each) for each in FORMATS)]
    ports = [ends.enter_context(PageServer(page)).server_port for page in pages]
    prometheus = ends.enter_context(TargetPrometheus(tmp_path, daemon.port, *ports, every_s=SCRAPE_EVERY_S))

    finished = f'{FINISHED}{{outcome="closed"}} == 1'
    prometheus.await_that(lambda: len(prometheus.query(finished)) == 4 * len(SHOWN), "all are scraped from each target")
    for label in map(quoted, SHOWN.values()):
        closed = f'{FINISHED}{{txn_type={label},status={label},outcome="closed"}} == 1'
        assert len(prometheus.query(closed)) == 4, closed
        stepped = f"txninsight_step_duration_seconds_count{{txn_type={label},step={label}}} == 1"
        assert len(prometheus.query(stepped)) == 4, stepped
        of_topic = f'txninsight_records_total{{topic={label},view="monitor",result="ok"}} == 4'
        assert len(prometheus.query(of_topic)) == 2, of_topic
    bucket = "txninsight_transaction_duration_seconds_bucket"
    kept = prometheus.data("query_exemplars", query=bucket, start=0, end=time.time() + 60)
    exemplars = {each["labels"]["txn_id"] for series in kept for each in series["exemplars"]}
    # Prometheus 2.42 keeps the escapes of a quote and of a backslash in an exemplar.
    short = {f"id {shown}" for shown in SHOWN.values() if len(shown) < 90}
    assert [shown for shown in short if not exemplars & {shown, quoted(shown)[1:-1], shown.replace("\\", "\\\\")}] == []
    prometheus.await_that(lambda: len(prometheus.query("up == 1")) == 4, "all targets are up")

    # A restart brings all of it back.
    assert daemon.stop() == 0
    daemon.start().await_ready()
    again = time.time()
    up = f'timestamp(up{{instance="127.0.0.1:{daemon.port}"}} == 1) > {again}'
    prometheus.await_that(lambda: prometheus.query(up), "the target is up again")
    assert len(prometheus.query(finished)) == 4 * len(SHOWN)
    assert daemon.total("txninsight_child_restarts_total") == 0

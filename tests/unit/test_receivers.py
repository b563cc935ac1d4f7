"""The local receivers: what they take, what they refuse as PagerDuty and Slack would, and what they write down."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from txninsightd.tools import receivers
from txninsightd.tools.receivers import PAGERDUTY, SLACK, Message, Receivers, read_record

EVENT: dict[str, Any] = {
    "routing_key": "0" * 32,
    "event_action": "trigger",
    "dedup_key": "k",
    "payload": {"summary": "3 order\nnewly stuck", "source": "orders-1:9840", "severity": "critical"},
    "links": [{"href": "http://orders-1:9840/", "text": "Transactions"}],
}
SLACKED: dict[str, Any] = {"attachments": [{"fallback": "2 a &lt; b &amp; c", "text": "*2*", "color": "warning"}]}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "alerts.jsonl"


@pytest.fixture
def serving(record: Path) -> Iterator[Receivers]:
    with Receivers(0, record) as server:
        Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield server
        server.shutdown()


def post(port: int, path: str, body: Any) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def event(**changes: Any) -> dict[str, Any]:
    return {**EVENT, **changes}


def with_payload(**changes: Any) -> dict[str, Any]:
    return event(payload={**EVENT["payload"], **changes})


def test_both_take_and_answer_as_the_real_ones_do(serving: Receivers, record: Path) -> None:
    status, text = post(serving.server_port, "/v2/enqueue", EVENT)
    assert (status, json.loads(text)) == (
        202,
        {"status": "success", "message": "Event processed", "dedup_key": "k"},
    )
    assert post(serving.server_port, "/slack", SLACKED) == (200, "ok")
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [(line["receiver"], line["body"]) for line in lines] == [(PAGERDUTY, EVENT), (SLACK, SLACKED)]
    assert [message.at for message in read_record(record)] == [line["at"] for line in lines]


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/v2/enqueue", b"{", "truncated"),
        ("/v2/enqueue", b'"\xff"', "utf-8"),
        ("/v2/enqueue", [], "Expected `object`"),
        ("/v2/enqueue", event(routing_key="short"), "$.routing_key"),
        ("/v2/enqueue", event(event_action="fire"), "$.event_action"),
        ("/v2/enqueue", event(dedup_key="k" * 256), "$.dedup_key"),
        ("/v2/enqueue", event(links=[{"href": ""}]), "$.links"),
        ("/v2/enqueue", with_payload(summary=""), "$.payload.summary"),
        ("/v2/enqueue", with_payload(summary="x" * 1025), "$.payload.summary"),
        ("/v2/enqueue", with_payload(source=""), "$.payload.source"),
        ("/v2/enqueue", with_payload(severity="page"), "$.payload.severity"),
        ("/v2/enqueue", with_payload(custom_details="x" * 512_000), "bytes are more than 512000"),
        ("/slack", b"payload=x", "malformed"),
        ("/slack", {"attachments": []}, "$.attachments"),
        ("/slack", {"attachments": [{"text": "x"}]}, "fallback"),
        ("/slack", {"attachments": [{"fallback": "x", "text": "x" * 8001}]}, "$.attachments[0].text"),
    ],
)
def test_what_the_real_ones_refuse_or_cut_is_refused(
    serving: Receivers, record: Path, path: str, body: Any, reason: str
) -> None:
    status, text = post(serving.server_port, path, body)
    assert status == 400
    assert reason in text
    assert not record.exists()


def test_other_paths_are_told_where_to_go(serving: Receivers) -> None:
    status, text = post(serving.server_port, "/", {})
    assert status == 404
    assert "/v2/enqueue" in text


def test_a_message_says_what_a_person_wants_to_know() -> None:
    page = Message(at=0.0, receiver=PAGERDUTY, body=EVENT)
    ticket = Message(at=0.0, receiver=SLACK, body=SLACKED)
    assert (page.severity, page.summary, page.is_resolved) == ("critical", "3 order newly stuck", False)
    assert (ticket.severity, ticket.summary, ticket.is_resolved) == ("warning", "2 a < b & c", False)
    assert re.fullmatch(r"\d\d:\d\d:\d\d pagerduty critical 3 order newly stuck", page.line)


def test_a_message_says_when_it_is_over() -> None:
    page = Message(at=0.0, receiver=PAGERDUTY, body=event(event_action="resolve"))
    ticket = Message(at=0.0, receiver=SLACK, body={"attachments": [{"fallback": "Resolved: 2 a", "color": "good"}]})
    assert page.is_resolved
    assert ticket.is_resolved
    assert ticket.line.endswith(" slack     resolved Resolved: 2 a")


def test_a_line_that_is_being_written_is_not_read_yet(record: Path) -> None:
    assert read_record(record) == []
    line = json.dumps({"at": 1.0, "receiver": SLACK, "body": SLACKED})
    record.write_text(f"{line}\n{line[:40]}")
    assert len(read_record(record)) == 1


def test_the_program_says_where_it_listens_shows_what_arrives_and_ends_when_told(record: Path) -> None:
    command = [sys.executable, "-m", "txninsightd.tools.receivers", "--port", "0", "--record", str(record)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
            assert found
            assert post(int(found[1]), "/v2/enqueue", EVENT)[0] == 202
            assert "pagerduty critical 3 order newly stuck" in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_a_taken_port_is_told(serving: Receivers, record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert receivers.main(["--port", str(serving.server_port), "--record", str(record)]) == 1
    assert "choose another port with --port" in capsys.readouterr().err

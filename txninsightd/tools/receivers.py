"""The local stack's receivers: they accept what Alertmanager sends to PagerDuty and Slack, and show it.

    python -m txninsightd.tools.receivers --port 19095 --record alerts.jsonl

`POST /v2/enqueue` replaces PagerDuty's Events API v2, and `POST /slack` a Slack webhook. They answer like the
originals, and reject with 400 what those would reject or cut, so a test finds texts that would get lost. Each accepted
message is one line of JSON in the record, {"at": epoch seconds, "receiver": ..., "body": ...}, and one readable line on
the standard output. `read_record` reads the record. Nothing leaves the machine, and only local clients are served.
"""

import argparse
import html
import signal
import sys
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from txninsightd.visible_text import visible

HOST = "127.0.0.1"
Receiver = Literal["pagerduty", "slack"]
PAGERDUTY: Final = "pagerduty"
SLACK: Final = "slack"
MAX_BYTES = 512_000

SLACK_COLOURS = {"danger": "critical", "warning": "warning", "good": "info"}

Text = Annotated[str, Meta(min_length=1)]


class Link(Struct):
    """A link of a PagerDuty event."""

    href: Text
    text: str = ""


class Payload(Struct):
    """The payload of a PagerDuty event; PagerDuty cuts a longer summary."""

    summary: Annotated[str, Meta(min_length=1, max_length=1024)]
    source: Text
    severity: Literal["critical", "error", "warning", "info"]


class Event(Struct):
    """An event of PagerDuty's Events API v2: the fields that are checked."""

    routing_key: Annotated[str, Meta(min_length=32, max_length=32)]
    event_action: Literal["trigger", "acknowledge", "resolve"]
    dedup_key: Annotated[str, Meta(min_length=1, max_length=255)]
    payload: Payload
    links: list[Link] = []


class Attachment(Struct):
    """The checked fields of a Slack message's attachment; Slack cuts a longer text."""

    fallback: Text
    text: Annotated[str, Meta(max_length=8000)] = ""


class SlackMessage(Struct):
    """The body of a Slack webhook."""

    attachments: Annotated[list[Attachment], Meta(min_length=1)]


class Message(Struct, frozen=True):
    """One line of the record. `at` is in epoch seconds; `body` is Alertmanager's request."""

    at: float
    receiver: Receiver
    body: dict[str, Any]

    @property
    def is_resolved(self) -> bool:
        """Whether it reports that the alert is resolved."""
        if self.receiver == PAGERDUTY:
            return bool(self.body["event_action"] == "resolve")
        return bool(self._attachment.get("color") == "good")

    @property
    def severity(self) -> str:
        """One of PagerDuty's severities; for Slack by the message's colour."""
        if self.receiver == PAGERDUTY:
            return str(self.body["payload"]["severity"])
        return SLACK_COLOURS.get(str(self._attachment.get("color")), "error")

    @property
    def summary(self) -> str:
        """The summary, as one line."""
        if self.receiver == PAGERDUTY:
            return _one_line(self.body["payload"]["summary"])
        return _one_line(html.unescape(self._attachment["fallback"]))

    @property
    def line(self) -> str:
        """The message as one line for a terminal."""
        clock = time.strftime("%H:%M:%S", time.localtime(self.at))
        return f"{clock} {self.receiver:<9} {'resolved' if self.is_resolved else self.severity:<8} {self.summary}"

    @property
    def _attachment(self) -> dict[str, Any]:
        attachment: dict[str, Any] = self.body["attachments"][0]
        return attachment


def read_record(path: Path) -> list[Message]:
    """All messages so far, oldest first; none if there is no file. An incomplete last line is ignored."""
    if not path.exists():
        return []
    complete, newline, _ = path.read_bytes().rpartition(b"\n")
    return msgspec.json.Decoder(Message).decode_lines(complete + newline)


def validation_error(raw: bytes, form: type[Event] | type[SlackMessage]) -> str | None:
    """Why the real receiver would reject or cut the request; None if it would accept it."""
    if len(raw) > MAX_BYTES:
        return f"{len(raw)} bytes are more than {MAX_BYTES}"
    try:
        msgspec.convert(msgspec.json.decode(raw), type=form)
    except (msgspec.DecodeError, UnicodeDecodeError) as failure:
        return str(failure)
    return None


class Receivers(ThreadingHTTPServer):
    """Serves on 127.0.0.1:`port` (0: any free one, see `server_port`) and appends to `record`."""

    daemon_threads = True

    def __init__(self, port: int, record: Path) -> None:
        super().__init__((HOST, port), _Handler)
        self._record = record
        self._lock = Lock()

    def store(self, message: Message) -> None:
        """Record a message and print it."""
        # Unbuffered, so each line is one write, and at most the last line is incomplete for a reader.
        with self._lock, self._record.open("ab", buffering=0) as record:
            record.write(msgspec.json.encode(message) + b"\n")
            print(message.line, flush=True)


class _Handler(BaseHTTPRequestHandler):
    server: Receivers

    def do_POST(self) -> None:
        """Accept or reject a message."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/v2/enqueue":
            self._handle_event(raw)
        elif self.path == "/slack":
            self._handle_slack(raw)
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"not found: POST to /v2/enqueue or /slack")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as the base class names it
        """Do not log requests; messages are printed instead."""

    def _handle_event(self, raw: bytes) -> None:
        error = self._record_or_reject(PAGERDUTY, raw, Event)
        if error is None:
            answer = {
                "status": "success",
                "message": "Event processed",
                "dedup_key": msgspec.json.decode(raw)["dedup_key"],
            }
            self._answer(HTTPStatus.ACCEPTED, msgspec.json.encode(answer), "application/json")
        else:
            answer = {"status": "invalid event", "message": "Event object is invalid", "errors": [error]}
            self._answer(HTTPStatus.BAD_REQUEST, msgspec.json.encode(answer), "application/json")

    def _handle_slack(self, raw: bytes) -> None:
        error = self._record_or_reject(SLACK, raw, SlackMessage)
        self._answer(HTTPStatus.OK if error is None else HTTPStatus.BAD_REQUEST, (error or "ok").encode())

    def _record_or_reject(self, receiver: Receiver, raw: bytes, form: type[Event] | type[SlackMessage]) -> str | None:
        error = validation_error(raw, form)
        if error is None:
            self.server.store(Message(at=time.time(), receiver=receiver, body=msgspec.json.decode(raw)))
        else:
            print(f"rejected, as by {receiver}: {error}: {raw[:200]!r}", flush=True)
        return error

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="txninsightd.tools.receivers", description="Local PagerDuty and Slack.")
    parser.add_argument("--port", type=int, required=True, help="the port to listen on, on 127.0.0.1")
    parser.add_argument("--record", type=Path, required=True, help="the file that gets one line of JSON per message")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Receivers(options.port, options.record) as receivers:
            print(f"listening on http://{HOST}:{receivers.server_port}, writing {options.record}", flush=True)
            receivers.serve_forever()
    except OSError as failure:
        print(f"cannot listen on port {options.port}: {failure}: choose another port with --port", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


if __name__ == "__main__":
    sys.exit(main())

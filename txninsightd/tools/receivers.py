"""The receivers of the local stack: they take what Alertmanager would send to PagerDuty and Slack, and show it.

    python -m txninsightd.tools.receivers --port 19095 --record alerts.jsonl

`POST /v2/enqueue` stands for PagerDuty's Events API v2 and `POST /slack` for a Slack webhook. They answer as those do,
and refuse with 400 what those would refuse or cut, so that a text that would be lost out there is lost here too. What
was taken is one line of JSON in the record, {"at": epoch seconds, "receiver": ..., "body": ...}, and one readable line
on the standard output. `read_record` reads it back. Nothing leaves the machine, and only the machine itself is served.
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
    """What PagerDuty must be told; it cuts a longer summary."""

    summary: Annotated[str, Meta(min_length=1, max_length=1024)]
    source: Text
    severity: Literal["critical", "error", "warning", "info"]


class Event(Struct):
    """An event of PagerDuty's Events API v2, as far as it is checked."""

    routing_key: Annotated[str, Meta(min_length=32, max_length=32)]
    event_action: Literal["trigger", "acknowledge", "resolve"]
    dedup_key: Annotated[str, Meta(min_length=1, max_length=255)]
    payload: Payload
    links: list[Link] = []


class Attachment(Struct):
    """What is checked of a Slack message's attachment; Slack cuts a longer text."""

    fallback: Text
    text: Annotated[str, Meta(max_length=8000)] = ""


class SlackMessage(Struct):
    """What a Slack webhook is posted."""

    attachments: Annotated[list[Attachment], Meta(min_length=1)]


class Message(Struct, frozen=True):
    """One line of the record. `at` is in seconds since the epoch, `body` what Alertmanager posted."""

    at: float
    receiver: Receiver
    body: dict[str, Any]

    @property
    def is_resolved(self) -> bool:
        """Whether it says that all is over."""
        if self.receiver == PAGERDUTY:
            return bool(self.body["event_action"] == "resolve")
        return bool(self._attachment.get("color") == "good")

    @property
    def severity(self) -> str:
        """One of PagerDuty's severities; a Slack message's by its colour."""
        if self.receiver == PAGERDUTY:
            return str(self.body["payload"]["severity"])
        return SLACK_COLOURS.get(str(self._attachment.get("color")), "error")

    @property
    def summary(self) -> str:
        """What a person reads first, as one line."""
        if self.receiver == PAGERDUTY:
            return _one_line(self.body["payload"]["summary"])
        return _one_line(html.unescape(self._attachment["fallback"]))

    @property
    def line(self) -> str:
        """The message in one line for a terminal."""
        clock = time.strftime("%H:%M:%S", time.localtime(self.at))
        return f"{clock} {self.receiver:<9} {'resolved' if self.is_resolved else self.severity:<8} {self.summary}"

    @property
    def _attachment(self) -> dict[str, Any]:
        attachment: dict[str, Any] = self.body["attachments"][0]
        return attachment


def read_record(path: Path) -> list[Message]:
    """All messages so far, oldest first; none while there is no file. A line that is still being written is left."""
    if not path.exists():
        return []
    complete, newline, _ = path.read_bytes().rpartition(b"\n")
    return msgspec.json.Decoder(Message).decode_lines(complete + newline)


def fault(raw: bytes, form: type[Event] | type[SlackMessage]) -> str | None:
    """Why the real receiver would refuse or cut what was posted; None when it would take it."""
    if len(raw) > MAX_BYTES:
        return f"{len(raw)} bytes are more than {MAX_BYTES}"
    try:
        msgspec.convert(msgspec.json.decode(raw), type=form)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return str(error)
    return None


class Receivers(ThreadingHTTPServer):
    """Serves on 127.0.0.1:`port` (0: any free one) and appends to `record`; `server_port` says where."""

    daemon_threads = True

    def __init__(self, port: int, record: Path) -> None:
        super().__init__((HOST, port), _Handler)
        self._record = record
        self._lock = Lock()

    def take(self, message: Message) -> None:
        """Write down a message and show it."""
        # Without a buffer a line is one write, so that a reader finds at most the last one incomplete.
        with self._lock, self._record.open("ab", buffering=0) as record:
            record.write(msgspec.json.encode(message) + b"\n")
            print(message.line, flush=True)


class _Handler(BaseHTTPRequestHandler):
    server: Receivers

    def do_POST(self) -> None:
        """Take a message or refuse it."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/v2/enqueue":
            self._take_event(raw)
        elif self.path == "/slack":
            self._take_slack(raw)
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there is nothing here: POST to /v2/enqueue or /slack")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as the base class names it
        """Messages are shown, requests are not."""

    def _take_event(self, raw: bytes) -> None:
        refusal = self._taken(PAGERDUTY, raw, Event)
        if refusal is None:
            said = {
                "status": "success",
                "message": "Event processed",
                "dedup_key": msgspec.json.decode(raw)["dedup_key"],
            }
            self._answer(HTTPStatus.ACCEPTED, msgspec.json.encode(said), "application/json")
        else:
            said = {"status": "invalid event", "message": "Event object is invalid", "errors": [refusal]}
            self._answer(HTTPStatus.BAD_REQUEST, msgspec.json.encode(said), "application/json")

    def _take_slack(self, raw: bytes) -> None:
        refusal = self._taken(SLACK, raw, SlackMessage)
        self._answer(HTTPStatus.OK if refusal is None else HTTPStatus.BAD_REQUEST, (refusal or "ok").encode())

    def _taken(self, receiver: Receiver, raw: bytes, form: type[Event] | type[SlackMessage]) -> str | None:
        refusal = fault(raw, form)
        if refusal is None:
            self.server.take(Message(at=time.time(), receiver=receiver, body=msgspec.json.decode(raw)))
        else:
            print(f"refused, as {receiver} would: {refusal}: {raw[:200]!r}", flush=True)
        return refusal

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="txninsightd.tools.receivers", description="Local PagerDuty and Slack.")
    parser.add_argument("--port", type=int, required=True, help="where to listen, on 127.0.0.1")
    parser.add_argument("--record", type=Path, required=True, help="the file that gets one line of JSON a message")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Receivers(options.port, options.record) as receivers:
            print(f"listening on http://{HOST}:{receivers.server_port}, writing {options.record}", flush=True)
            receivers.serve_forever()
    except OSError as error:
        print(f"cannot listen on port {options.port}: {error}: choose another one with --port", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())

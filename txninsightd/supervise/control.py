"""The line between the parent and the aggregator: small messages, each whole, some with a descriptor in their company.

A Unix socket that keeps message boundaries (SOCK_SEQPACKET), so that a message and the descriptor that belongs to it
arrive together (SCM_RIGHTS). An aggregator forked earlier can so be handed the line to a reader that was forked later.
"""

import os
import socket
import time
from collections.abc import Callable

import msgspec
import structlog

from txninsightd.vocabulary import FromAggregator, FromParent, Report

# The kernel would cut a longer message without a word; a test sends the longest that there is.
MOST_BYTES = 1 << 17
REPORT_EVERY_S = 2.0
MOST_STATUS_CHARS = 1000

log = structlog.get_logger()


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends: the parent's, the aggregator's."""
    parent, aggregator = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return parent, aggregator


def send(
    end: socket.socket, message: FromParent | FromAggregator, descriptor: int | None = None, patience_s: float = 5.0
) -> bool:
    """Send one message; says whether there was anybody left to take it. Waits no longer than `patience_s`."""
    body = msgspec.msgpack.encode(message)
    # Set at each call: `receive` makes the same socket one that never waits.
    end.settimeout(patience_s)
    try:
        if descriptor is None:
            end.send(body)
        else:
            socket.send_fds(end, [body], [descriptor])
    except OSError as failure:
        log.error("control_message_lost", message=type(message).__name__, error=str(failure))
        return False
    return True


def receive(end: socket.socket) -> tuple[bytes, int | None]:
    """The next message and its descriptor; b"" at the end of the line. Raises BlockingIOError when there is none."""
    end.setblocking(False)
    try:
        body, descriptors, _, _ = socket.recv_fds(end, MOST_BYTES, 1)
    # The other end went, and left something unread that was sent from here.
    except ConnectionResetError:
        return b"", None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return body, descriptors[0] if descriptors else None


def in_memory(content: bytes) -> int:
    """A descriptor of a file that lies in memory only: what is too long for a message, or must not lie on a disk."""
    descriptor = os.memfd_create("txninsightd")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def from_memory(descriptor: int) -> bytes:
    """Its content; the descriptor is given back."""
    with open(descriptor, "rb") as file:
        return file.read()


class Reporter:
    """Tells the parent what is new of the aggregator; a new line at most every `REPORT_EVERY_S`. Never waits."""

    def __init__(self, end: socket.socket, now: Callable[[], float] = time.monotonic) -> None:
        self._end = end
        self._now = now
        self._told: Report | None = None
        self._next_at = float("-inf")

    def report(self, status: str, serving: bool = True) -> None:
        """Whether the aggregator serves, and its line for the operator."""
        report, now = Report(serving, status[:MOST_STATUS_CHARS]), self._now()
        # Whether it serves is told at once: systemd's READY=1 waits for it.
        changed = self._told is None or report.serving != self._told.serving
        if report == self._told or (now < self._next_at and not changed):
            return
        self._next_at = now + REPORT_EVERY_S
        if send(self._end, report, patience_s=0.0):
            self._told = report

"""The control line between the parent and the aggregator: small whole messages, some of which carry a descriptor.

It is a Unix socket that keeps message boundaries (SOCK_SEQPACKET), so a message and its descriptor arrive together
(SCM_RIGHTS). An aggregator that was forked earlier can thus be handed the line to a child that was forked later.
"""

import os
import socket
import time
from collections.abc import Callable

import msgspec
import structlog

from txninsightd.vocabulary import Attach, ChildrenStatus, FromAggregator, FromParent, Reload, Report, Stop

# The kernel would truncate a longer message silently; a test sends the longest that there is.
MOST_BYTES = 1 << 17
REPORT_EVERY_S = 2.0
MOST_STATUS_CHARS = 1000
NO_REPORT = Report(False, "the aggregator does not serve yet")

log = structlog.get_logger()


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends: the parent's, the aggregator's."""
    parent, aggregator = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return parent, aggregator


def send(
    end: socket.socket, message: FromParent | FromAggregator, descriptor: int | None = None, timeout_s: float = 5.0
) -> bool:
    """Send one message; says whether the other end took it. Waits at most `timeout_s`."""
    body = msgspec.msgpack.encode(message)
    # Set at each call, since `receive` makes the same socket non-blocking.
    end.settimeout(timeout_s)
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
    # The other end has gone and left a message of ours unread.
    except ConnectionResetError:
        return b"", None
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return body, descriptors[0] if descriptors else None


def write_memory_file(content: bytes) -> int:
    """The descriptor of a file in memory: for content that is too long for a message, or must not be on a disk."""
    descriptor = os.memfd_create("txninsightd")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def read_memory_file(descriptor: int) -> bytes:
    """The file's content; closes the descriptor."""
    with open(descriptor, "rb") as file:
        return file.read()


class ControlLine:
    """The parent's end of the line to one aggregator process; a new process gets a new line, with nothing sent on it.

    `end` None: there was no aggregator yet. `report`: the aggregator's latest; it stays after the line has closed.
    """

    def __init__(self, end: socket.socket | None = None) -> None:
        self.report = NO_REPORT
        self._end = end
        self._sent_status: ChildrenStatus | None = None
        self._unsent_config: bytes | None = None

    @property
    def open_end(self) -> socket.socket | None:
        """The socket to wait on; None once the line is closed."""
        return self._end

    def close(self) -> None:
        """End the line."""
        if self._end is not None:
            self._end.close()
            self._end = None

    def attach(self, child: str, descriptor: int) -> None:
        """Hand the aggregator its end of a child's line; closes the descriptor here.

        If this fails, the other end of the line is closed everywhere: the child notices, and ends.
        """
        if self._end is not None:
            send(self._end, Attach(child), descriptor)
        os.close(descriptor)

    def reload(self, config: bytes) -> None:
        """Send this config with the next `send_pending`. It takes the place of one that is still unsent."""
        self._unsent_config = config

    def send_pending(self, status: ChildrenStatus) -> None:
        """Send what the aggregator does not have yet. What fails is tried again at the next call."""
        if self._end is None:
            return
        if self._unsent_config is not None and _send_config(self._end, self._unsent_config):
            self._unsent_config = None
        if status != self._sent_status and send(self._end, status):
            self._sent_status = status

    def stop(self) -> None:
        """Ask the aggregator to stop once all lines have ended."""
        if self._end is not None:
            send(self._end, Stop())

    def receive_report(self) -> None:
        """Take the aggregator's next report; closes the line when the aggregator has exited or is about to."""
        assert self._end is not None
        try:
            body, _ = receive(self._end)
        except BlockingIOError:
            return
        if body:
            self.report = msgspec.msgpack.decode(body, type=FromAggregator)
        else:
            self.close()


def _send_config(end: socket.socket, config: bytes) -> bool:
    try:
        descriptor = write_memory_file(config)
    except OSError as failure:
        log.error("control_message_lost", message="Reload", error=str(failure))
        return False
    sent = send(end, Reload(), descriptor)
    os.close(descriptor)
    return sent


class Reporter:
    """The aggregator's side: reports changes to the parent, at most every `REPORT_EVERY_S` seconds. Never waits."""

    def __init__(self, end: socket.socket, now: Callable[[], float] = time.monotonic) -> None:
        self._end = end
        self._now = now
        self._sent: Report | None = None
        self._next_at = float("-inf")

    def report(self, status: str, serving: bool = True) -> None:
        """Whether the aggregator serves, and its line for the operator."""
        report, now = Report(serving, status[:MOST_STATUS_CHARS]), self._now()
        # A change of `serving` is sent at once: systemd's READY=1 waits for it.
        urgent = self._sent is None or report.serving != self._sent.serving
        if report == self._sent or (now < self._next_at and not urgent):
            return
        self._next_at = now + REPORT_EVERY_S
        if send(self._end, report, timeout_s=0.0):
            self._sent = report

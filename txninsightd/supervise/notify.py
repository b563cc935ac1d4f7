"""Notifies systemd (sd_notify(3)): readiness, one line of status, the watchdog, a reload, the stop.

The protocol is one datagram of NAME=value lines to the Unix socket in NOTIFY_SOCKET, an abstract one if it begins with
`@`. Only the parent sends: the unit says NotifyAccess=main. Without systemd, nothing is sent. A datagram that cannot be
delivered is logged, and the daemon goes on; what depends on it is sent again.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping

import structlog

from txninsightd.visible_text import visible

SEND_TIMEOUT_S = 1.0
LONGEST_STATUS = 300

log = structlog.get_logger()


class Notifier:
    """`address`: systemd's socket; None: there is none. `watchdog_s`: the watchdog's time-out; 0: no watchdog."""

    def __init__(self, address: str | None, watchdog_s: float = 0.0) -> None:
        self._address = address
        self._watchdog_s = watchdog_s
        self._feed_at = 0.0
        self._status = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Notifier":
        """As systemd sets it up: NOTIFY_SOCKET, and WATCHDOG_USEC if WATCHDOG_PID is this process."""
        watchdog_s = 0.0
        if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            with contextlib.suppress(ValueError):
                watchdog_s = int(environment.get("WATCHDOG_USEC", "0")) / 1e6
        return cls(environment.get("NOTIFY_SOCKET") or None, watchdog_s)

    @property
    def every_s(self) -> float:
        """How often `feed` must be called at least."""
        return self._watchdog_s / 4 if self._watchdog_s else float("inf")

    def ready(self) -> bool:
        """The service has started, or has reloaded its configuration. Says whether that was delivered."""
        return self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it differs from the line before."""
        line = visible(" ".join(text.split()))
        line = line if len(line) <= LONGEST_STATUS else f"{line[: LONGEST_STATUS - 3]}..."
        if line != self._status and self._send(f"STATUS={line}"):
            self._status = line

    def feed(self, now: float) -> None:
        """All work loops run (`now`: monotonic seconds). Sent no later than at half of the watchdog's time-out."""
        if self._watchdog_s and now >= self._feed_at and self._send("WATCHDOG=1"):
            self._feed_at = now + self.every_s

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service stops."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> bool:
        # Without a socket everything counts as delivered: nothing has to be sent again.
        if self._address is None:
            return True
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.settimeout(SEND_TIMEOUT_S)
                end.sendto(message.encode(), address)
        except OSError as failure:
            log.warning("systemd_notify_failed", message=message, error=str(failure))
            return False
        return True

"""What systemd is told (sd_notify(3)): readiness, one line of status, the watchdog's food, a reload, the end.

The protocol is one datagram of NAME=value lines to the Unix socket in NOTIFY_SOCKET, an abstract one if it begins with
`@`. Only the parent speaks: the unit says NotifyAccess=main. Started by anything but systemd, all this is silent. A
datagram that cannot be delivered is logged and is no reason to stop working; what depends on it is said again.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping

import structlog

PATIENCE_S = 1.0
LONGEST_STATUS = 300

log = structlog.get_logger()


class Notifier:
    """`address`: systemd's socket; None: nobody listens. `watchdog_s`: how long systemd bears silence; 0: for ever."""

    def __init__(self, address: str | None, watchdog_s: float = 0.0) -> None:
        self._address = address
        self._watchdog_s = watchdog_s
        self._feed_at = 0.0
        self._status = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Notifier":
        """As systemd has set it up: NOTIFY_SOCKET, and WATCHDOG_USEC if WATCHDOG_PID means this process."""
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
        return self._tell("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; told when it differs from the line before."""
        line = " ".join(text.split())
        line = line if len(line) <= LONGEST_STATUS else f"{line[: LONGEST_STATUS - 3]}..."
        if line != self._status and self._tell(f"STATUS={line}"):
            self._status = line

    def feed(self, now: float) -> None:
        """All work loops come round (`now`: monotonic seconds). Told no later than at half of systemd's patience."""
        if self._watchdog_s and now >= self._feed_at and self._tell("WATCHDOG=1"):
            self._feed_at = now + self.every_s

    def reloading(self) -> None:
        """The configuration is read again; `ready` must follow."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service stops."""
        self._tell("STOPPING=1")

    def _tell(self, message: str) -> bool:
        # Nobody listens, which counts as delivered: nothing has to be said again.
        if self._address is None:
            return True
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.settimeout(PATIENCE_S)
                end.sendto(message.encode(), address)
        except OSError as failure:
            log.warning("systemd_not_told", message=message, error=str(failure))
            return False
        return True

"""What systemd does for a daemon, on a small scale: its socket, its watchdog, and `Restart=always`.

A service whose main process dies, or does not feed the watchdog, is killed to its last process, and once none is left
it is started again. The processes of a service are those of the session in which its main process was started.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.harness.daemon import Daemon
from tests.harness.processes import session

LOOK_EVERY_S = 0.05
RESTART_AFTER_S = 0.1
"""systemd's own default (RestartSec=)."""
GRACE_S = 10.0
STARTING_S = 120.0
"""The watchdog's time-out until the service has said that it is ready."""


class Ended(NamedTuple):
    """One run of the daemon that ended unasked. `outlived`: its processes that still lived after the grace period."""

    exit_code: int
    by_watchdog: bool
    outlived: list[int]


class ServiceDaemon(Daemon):
    """A daemon that is told where systemd listens, and leads a session of its own."""

    def __init__(self, directory: Path, bootstrap: str, sections: dict[str, Any], watchdog_s: float) -> None:
        super().__init__(directory, bootstrap, sections)
        self.socket = directory / "notify"
        self.watchdog_s = watchdog_s
        self.environment |= {"NOTIFY_SOCKET": str(self.socket), "WATCHDOG_USEC": str(int(self.watchdog_s * 1e6))}

    def start(self) -> "ServiceDaemon":
        """Start it as systemd would."""
        self.launch(start_new_session=True)
        return self


class ServiceManager:
    """Keeps one daemon running, from a thread of its own, until `stop` or `kill`."""

    def __init__(self, daemon: ServiceDaemon) -> None:
        self.daemon = daemon
        self.ended: list[Ended] = []
        self._fed_at: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service-manager", daemon=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(daemon.socket))
        self._socket.settimeout(LOOK_EVERY_S)

    def start(self) -> None:
        """Start the daemon, and watch it."""
        self.daemon.start()
        self._thread.start()

    def stop(self) -> int:
        """Stop the daemon in order; gives its exit code."""
        self._leave()
        return self.daemon.stop()

    def kill(self) -> None:
        """Kill everything."""
        self._leave()
        assert self.daemon.process is not None
        self._kill_session(self.daemon.process.pid)
        self.daemon.process.wait()

    def pid(self) -> int:
        """The process id of the main process."""
        assert self.daemon.process is not None
        return self.daemon.process.pid

    def _leave(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        started_at = time.monotonic()
        while not self._stopping.is_set():
            self._listen()
            assert self.daemon.process is not None
            code = self.daemon.process.poll()
            patience_s = self.daemon.watchdog_s if self._fed_at is not None else STARTING_S
            silent = time.monotonic() - (self._fed_at or started_at) > patience_s
            if code is not None or silent:
                self._reap(by_watchdog=code is None)
                self._stopping.wait(RESTART_AFTER_S)
                self._fed_at, started_at = None, time.monotonic()
                self.daemon.start()

    def _listen(self) -> None:
        with contextlib.suppress(TimeoutError):
            words = self._socket.recv(4096).decode().splitlines()
            if "READY=1" in words or (self._fed_at is not None and "WATCHDOG=1" in words):
                self._fed_at = time.monotonic()

    def _reap(self, *, by_watchdog: bool) -> None:
        """Kill what is left. The children of a main process that died by itself must be gone by then."""
        process = self.daemon.process
        assert process is not None
        if by_watchdog:
            process.kill()
        code = process.wait()
        deadline = time.monotonic() + GRACE_S
        while (left := session(process.pid)) and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S / 5)
        self.ended.append(Ended(code, by_watchdog, left))
        self._kill_session(process.pid)
        with contextlib.suppress(BlockingIOError, TimeoutError):
            while self._socket.recv(4096, socket.MSG_DONTWAIT):
                """What the former process said does not count for the next one."""

    def _kill_session(self, leader: int) -> None:
        for pid in session(leader):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

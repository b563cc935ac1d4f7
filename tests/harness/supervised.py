"""A parent over its children, which are dummies as a rule, as a process that a test starts, signals and watches."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.harness.json_log import children_started, parse_lines
from tests.harness.paths import ROOT
from tests.harness.processes import living
from tests.harness.waiting import HANG_GUARD_S, await_that

LOOK_EVERY_S = 0.01
DUMMY_CHILDREN = "tests.harness.dummy_children"
CHILDREN = {"aggregator", "monitor-0", "monitor-1", "validator-0"}
READERS = CHILDREN - {"aggregator"}


class Supervised:
    """The program, and what it has printed and told systemd so far. `fault`: see dummy_children."""

    def __init__(self, fault: str, directory: Path, environment: dict[str, str], program: str) -> None:
        self._notes, self._log = directory / "notes", directory / "log"
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._systemd.bind(str(directory / "notify"))
        self._systemd.setblocking(False)
        self._told: list[str] = []
        command = [sys.executable, "-m", program, fault]
        with self._notes.open("wb") as notes, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=notes,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "NOTIFY_SOCKET": str(directory / "notify"), **environment},
            )

    def notes(self, **wanted: Any) -> list[dict[str, Any]]:
        """What the children noted, oldest first."""
        return parse_lines(self._notes.read_text().splitlines(), **wanted)

    def log(self, **wanted: Any) -> list[dict[str, Any]]:
        """What the parent logged."""
        return parse_lines(self._log.read_text().splitlines(), **wanted)

    def told(self) -> list[str]:
        """What systemd was told so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._told.append(self._systemd.recv(4096).decode())
        return self._told

    def pids(self) -> dict[str, int]:
        """The latest process id of each child."""
        return children_started(self.log())

    def order(self) -> list[tuple[str, str]]:
        """Which process noted what, in order."""
        return [(n["process"], n["what"]) for n in self.notes()]

    def await_that(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds."""
        what, output = "what the test waits for", lambda: f"{self.order()}\n{self._log.read_text()}"
        await_that(condition, what, output=output, every_s=LOOK_EVERY_S)

    def await_started(self, times: int = 1) -> "Supervised":
        """Wait until every child has started and every reader is attached, so many times."""
        self.await_that(
            lambda: (
                all(len(self.notes(process=c, what="started")) >= times for c in CHILDREN)
                and all(len(self.notes(what="attached", child=r)) >= times for r in READERS)
            )
        )
        return self

    def await_attached(self, reader: str, times: int) -> None:
        """Wait until the aggregator has been handed the line of this reader for the `times`-th time."""
        self.await_that(lambda: len(self.notes(what="attached", child=reader)) == times)

    def kill(self, child: str, number: int = signal.SIGKILL) -> int:
        """kill -9, or another signal; gives its process id."""
        pid = self.pids()[child]
        os.kill(pid, number)
        return pid

    def exit_code(self) -> int:
        """Wait for its end."""
        return self.process.wait(HANG_GUARD_S)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal, and its exit code."""
        self.process.send_signal(number)
        return self.exit_code()

    def living(self) -> list[str]:
        """Which of all the children that were ever started still live."""
        return [line["child"] for line in self.log(event="child_started") if living([line["pid"]])]

    def end(self) -> None:
        """Kill what is left."""
        for pid in (self.process.pid, *self.pids().values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


StartSupervised = Callable[..., Supervised]
"""Takes the fault, the program's module if it is not `dummy_children`, and variables of the environment."""

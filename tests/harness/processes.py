"""Processes: programs that run within `with`, and what /proc tells of any process.

A program's output goes to a file, and the program dies with the thread that started it, so that an aborted test leaves
nothing running.
"""

import json
import os
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.harness.http import http_status
from tests.harness.waiting import HANG_GUARD_S, await_that
from txninsightd.tools.stack import machine

# --- Programs ---------------------------------------------------------------------------------------------------------


class Refused(AssertionError):
    """A program refused a request; the message has its reason."""


class Program:
    """A server program. Subclasses name its command; it counts as started once it is ready."""

    def __init__(self, name: str, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        """The command line that runs it in the foreground."""
        raise NotImplementedError

    @property
    def output(self) -> str:
        """The end of what it printed."""
        return machine.last_lines(self._output.read_text(errors="replace"))

    def __enter__(self) -> Self:
        with self._output.open("wb") as output:
            line = ["setpriv", "--pdeathsig", "KILL", "--", *self.command]
            self._process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.await_that(self.is_ready, f"{self._name} is ready")
        return self

    def __exit__(self, *failure: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(HANG_GUARD_S)

    def is_ready(self) -> bool:
        """Whether it serves, as Prometheus and Alertmanager tell it."""
        return http_status(f"http://{machine.HOST}:{self.port}/-/ready") == 200

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def await_that(self, condition: Callable[[], object], what: str) -> None:
        """Wait until the condition holds, as long as the program lives."""
        await_that(condition, what, output=lambda: self.output, process=self._process)

    def ask(self, path: str, **query: Any) -> Any:
        """The JSON that a GET returns. Raises Refused with the reason."""
        url = f"http://{machine.HOST}:{self.port}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=HANG_GUARD_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(f"{query}: {error.read().decode()}") from error

    @property
    def _output(self) -> Path:
        return self.directory / f"{self._name}.out"


# --- Which processes live ---------------------------------------------------------------------------------------------


def living(pids: Iterable[int]) -> list[int]:
    """Those of these processes that are still there."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def children(pid: int) -> list[int]:
    """The living children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def session(leader: int) -> list[int]:
    """The living processes of the session that this process leads."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                state, _, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(of) == leader and state not in "ZX":
                    pids.append(int(entry.name))
    return pids


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


# --- What a process has used ------------------------------------------------------------------------------------------

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
AFTER_NAME = 2
OWN_TIME, ENDED_CHILDREN_TIME = 13 - AFTER_NAME, 15 - AFTER_NAME
"""Fields of /proc/PID/stat: user time, with system time next to it."""


class Usage(NamedTuple):
    """CPU in seconds (10 ms steps) of all threads, memory in bytes.

    `ended_children_cpu_s`: of the children that it forked and reaped (checkpoint writers).
    """

    cpu_s: float
    ended_children_cpu_s: float
    rss_bytes: int
    most_rss_bytes: int
    descriptors: int
    threads: int


def usage(pid: int) -> Usage:
    """The usage of a living process. Raises FileNotFoundError or ProcessLookupError when it is gone."""
    process = Path(f"/proc/{pid}")
    stat = (process / "stat").read_text()
    return Usage(
        cpu_seconds(stat, OWN_TIME),
        cpu_seconds(stat, ENDED_CHILDREN_TIME),
        *resident_bytes((process / "status").read_text()),
        descriptors(pid),
        sum(1 for _ in (process / "task").iterdir()),
    )


class CpuTime:
    """CPU seconds of processes, from now on. `pids`: by any name."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before = self._until_now()

    def used(self) -> dict[str, float]:
        """What each has used since then."""
        return {name: cpu_s - self._before[name] for name, cpu_s in self._until_now().items()}

    def _until_now(self) -> dict[str, float]:
        return {name: usage(pid).cpu_s for name, pid in self._pids.items()}


def cpu_seconds(stat: str, field: int = OWN_TIME) -> float:
    """User and system time of a line of /proc/PID/stat, whatever the process calls itself."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[field]) + int(fields[field + 1])) / TICKS_A_SECOND


def resident_bytes(status: str) -> tuple[int, int]:
    """VmRSS and VmHWM of a /proc/PID/status."""
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines["VmRSS"].split()[0]) * 1024, int(lines["VmHWM"].split()[0]) * 1024


def waited_for_cpu_s(pid: int) -> float:
    """How long the main thread was ready to run and had no CPU since its start; 0 where the kernel does not count."""
    counted = Path(f"/proc/{pid}/task/{pid}/schedstat")
    return int(counted.read_text().split()[1]) / 1e9 if counted.exists() else 0.0

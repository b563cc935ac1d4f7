"""The children as the parent knows them: a spec (name, program, kind of line), and the process that runs it now.

One child, the aggregator, has the control line to the parent. Every other child has a two-way pipe, and the aggregator
gets the far end of it. The parent asks nothing else of a spec, so a new kind of child is one more `ChildSpec` in
daemon.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import structlog

from txninsightd import host_limits
from txninsightd.supervise.backoff import Backoff
from txninsightd.supervise.heartbeats import Heartbeats, HeartbeatWriter
from txninsightd.supervise.process_setup import leave, nothing_left_open, set_up_child_process, stop_signals_blocked
from txninsightd.vocabulary import ChildStatus

_FORK = get_context("fork")

log = structlog.get_logger()


class LineKind(Enum):
    """Where the other end of a child's line is."""

    CONTROL = auto()  # at the parent: the control line (supervise/control.py)
    DATA = auto()  # at the aggregator: a two-way pipe (supervise/channel.py)


class ChildContext(NamedTuple):
    """What a child's program gets. `line`: the descriptor of its end; `stopping`: whether SIGTERM has come."""

    name: str
    line: int
    heartbeat: HeartbeatWriter
    heartbeats: Heartbeats
    stopping: Callable[[], bool]


@dataclass(frozen=True)
class ChildSpec:
    """One child. `program` runs in the child's process; when it returns or raises, the process ends."""

    name: str
    program: Callable[[ChildContext], None]
    line: LineKind


def run_child(spec: ChildSpec, line: int, heartbeats: Heartbeats) -> None:
    """The whole life of a child's process, right after the fork. A failure becomes one line of the log."""
    try:
        stopping = set_up_child_process(spec.name, ignore_sigterm=spec.line is LineKind.CONTROL)
        spec.program(ChildContext(spec.name, line, heartbeats.writer(spec.name), heartbeats, stopping))
    except Exception as failure:
        if host_limits.log_if_limit(failure):
            leave(host_limits.EXIT_HOST_LIMIT)
        log.exception("child_failed")
        # Here, while the traceback still holds what the program has made: freeing it could wait for a broker.
        leave(1)


class Exit(NamedTuple):
    """How a child's process ended. `first`: it was the child's first process; `too_often`: restarting is pointless.

    The host's refusal to start a process is an exit, too.
    """

    code: int | None
    first: bool
    too_often: bool


class Child:
    """One spec and its process, if it has one at present. Moments are the parent's monotonic seconds."""

    def __init__(self, spec: ChildSpec, backoff: Backoff) -> None:
        self.spec = spec
        self.start_at = 0.0
        self.killed_as_hung = False
        self._backoff = backoff
        self._process: BaseProcess | None = None
        self._starts = 0
        self._refused = False

    @property
    def name(self) -> str:
        """As in logs, metrics and process lists."""
        return self.spec.name

    @property
    def is_up(self) -> bool:
        """Whether it has a process. One that has exited counts until it is reaped."""
        return self._process is not None

    @property
    def process(self) -> BaseProcess:
        """The present process; there must be one."""
        assert self._process is not None
        return self._process

    def is_due(self, now: float) -> bool:
        """Whether to start it now."""
        return self._process is None and now >= self.start_at

    def fork(self, program: Callable[[], None]) -> None:
        """Start a process that runs `program`. Raises OSError where the host has no room for it."""
        process = _FORK.Process(target=program, name=self.name)
        with nothing_left_open(), stop_signals_blocked():
            process.start()
        log.info("child_started", child=self.name, pid=process.pid)
        self._process = process
        self._starts += 1
        self.killed_as_hung = False

    def refused(self, now: float) -> float:
        """The host did not let it start: an exit for the next `reap`. Gives the seconds until the next attempt."""
        self._refused = True
        return self._plan_next_start(now)

    def reap(self, now: float) -> Exit | None:
        """If the process has exited, plan the next start and say how it ended; else None."""
        if self._refused:
            self._refused = False
            return Exit(host_limits.EXIT_HOST_LIMIT, self._starts == 0, self._backoff.exhausted)
        if self._process is None or self._process.is_alive():
            return None
        code, self._process = self._process.exitcode, None
        wait_s = self._plan_next_start(now)
        log.error("child_died", child=self.name, exit_code=code, restart_in_s=wait_s)
        return Exit(code, self._starts == 1, self._backoff.exhausted)

    def _plan_next_start(self, now: float) -> float:
        wait_s = self._backoff.exited(now)
        self.start_at = now + wait_s
        return wait_s

    def kill(self) -> None:
        """End the process at once; this is no exit that counts. The next start is due at once."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
        self._refused = False
        self.start_at = 0.0

    def stops_by(self, deadline: float, now: float) -> bool:
        """Wait until the process has exited, at most until `deadline`; says whether it stopped in order (code 0)."""
        self.process.join(max(0.0, deadline - now))
        if self.process.exitcode is None:
            log.error("child_did_not_stop", child=self.name)
        return self.process.exitcode == 0

    def exited_with(self, code: int) -> bool:
        """Whether its process has ended with this exit code, and is not reaped yet."""
        return self._process is not None and self._process.exitcode == code

    def status(self) -> ChildStatus:
        """The child's state, for the aggregator."""
        return ChildStatus(self.name, self.is_up, max(0, self._starts - 1))

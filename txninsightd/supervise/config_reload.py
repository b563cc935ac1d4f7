"""Reads the config file again in a process of its own: whatever lies in the file's place, the parent goes on.

A file may be slow to read (a dead network share), or cost much time or memory to understand. So a forked process reads
and checks it, within limits of time and memory, and leaves its answer in a memory file. The parent waits for its exit
as for any child's, and neither reads nor parses the file. A reading that does not end in time is killed, and the file
is refused.

SIGHUPs are merged. One after a quiet second starts a reading at once. More of them while it runs, or one shortly after
another, are one further reading, as soon as it has been quiet for a second, and after `most_delay_s` at the latest.
"""

import math
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from txninsightd.supervise.control import read_memory_file
from txninsightd.supervise.process_setup import nothing_left_open, set_up_child_process, stop_signals_blocked

NAME = "config-reader"
EXIT_MEMORY = 12
"""The process's own code for this module; no exit code of the daemon."""

KILLED_WITHIN_S = 1.0

_FORK = get_context("fork")

log = structlog.get_logger()


class ReloadLimits(NamedTuple):
    """`time_s` bounds the reading by the clock and in CPU seconds, `memory_bytes` what it adds to the parent's memory.

    A file of the greatest size takes 5 to 10 s of an idle CPU, and 150 MiB. `quiet_s`, `most_delay_s`: see above.
    """

    time_s: float = 30.0
    memory_bytes: int = 512 << 20
    quiet_s: float = 1.0
    most_delay_s: float = 30.0


class ReloadableConfig(Protocol):
    """The config in force, as a reload needs it."""

    def read(self) -> bytes:
        """Read the file again; gives the answer for `take`. Runs in another process: it changes nothing here."""

    def take(self, answer: bytes) -> bytes | None:
        """Put the answer in force; gives what the running aggregator must be sent. None: the file is refused."""

    def refuse(self, reason: str) -> None:
        """Say that the file is refused, without an answer."""


class Reading:
    """A process that reads the file, and the memory file of its answer. `until`: the moment at which it is killed."""

    def __init__(self, process: BaseProcess, answer: int, until: float) -> None:
        self.process = process
        self.answer = answer
        self.until = until
        self.is_given_up = False

    def take_answer(self) -> bytes:
        """What the process has written; closes the memory file."""
        os.lseek(self.answer, 0, os.SEEK_SET)
        return read_memory_file(self.answer)


class Finished(NamedTuple):
    """The end of one reload. `config`: what the running aggregator must be sent; None: the file was refused."""

    config: bytes | None


class ConfigReload:
    """The reloads of one parent, one at a time. Moments are its monotonic seconds."""

    def __init__(self, config: ReloadableConfig, limits: ReloadLimits) -> None:
        self._config = config
        self._limits = limits
        self._reading: Reading | None = None
        self._asked_at = -math.inf
        self._due_at = math.inf
        self._due_at_latest = math.inf

    def ask(self, now: float) -> None:
        """A SIGHUP has come: reload, at once or a little later."""
        quiet = now - self._asked_at >= self._limits.quiet_s
        self._asked_at = now
        self._due_at_latest = min(self._due_at_latest, now + self._limits.most_delay_s)
        self._due_at = min(now if quiet else now + self._limits.quiet_s, self._due_at_latest)

    def is_due(self, now: float) -> bool:
        """Whether to `begin` now."""
        return self._reading is None and now >= self._due_at

    def begin(self, now: float) -> Finished | None:
        """Start the process; `finished` then tells its end. Gives the end at once if no process can be started."""
        self._due_at = self._due_at_latest = math.inf
        try:
            with nothing_left_open():
                answer = os.memfd_create("txninsightd")
                process = _FORK.Process(target=_read, args=(self._config.read, answer, self._limits), name=NAME)
                with stop_signals_blocked():
                    process.start()
        except OSError as failure:
            self._config.refuse(f"no process can be started to read it ({failure.strerror})")
            return Finished(None)
        self._reading = Reading(process, answer, now + self._limits.time_s)
        return None

    @property
    def sentinels(self) -> list[int]:
        """What becomes readable when the process has exited; empty if there is none."""
        return [] if self._reading is None else [self._reading.process.sentinel]

    def due_in_s(self, now: float) -> float:
        """How long nothing has to be done here, unless the process exits."""
        return max(0.0, (self._due_at if self._reading is None else self._reading.until) - now)

    def finished(self, now: float) -> Finished | None:
        """The end of the reload that was begun, told once; None while the process works, or without one."""
        reading = self._reading
        if reading is None:
            return None
        if reading.process.is_alive():
            return self._give_up(reading) if now >= reading.until else None
        self._reading = None
        if reading.is_given_up:
            return None
        code, answer = reading.process.exitcode, reading.take_answer()
        if code == 0:
            return Finished(self._config.take(answer))
        self._config.refuse(self._reason(code))
        return Finished(None)

    def cancel(self) -> None:
        """End the process, if there is one: nothing needs its answer."""
        if self._reading is not None:
            self._reading.process.kill()
            self._reading.process.join(KILLED_WITHIN_S)

    def close_in_child(self) -> None:
        """In a child that was just forked: close what belongs to the parent."""
        if self._reading is not None and not self._reading.is_given_up:
            os.close(self._reading.answer)

    def _give_up(self, reading: Reading) -> Finished:
        # A process that waits for a dead disk does not die at once, and is not waited for: the next one waits for it.
        reading.process.kill()
        reading.take_answer()
        reading.is_given_up, reading.until = True, math.inf
        self._config.refuse(self._reason(None))
        return Finished(None)

    def _reason(self, code: int | None) -> str:
        """`code`: the process's exit code; None: it was killed, since its time was over."""
        if code in (None, -signal.SIGXCPU):
            return f"it takes more than {self._limits.time_s:g} s to read"
        if code == EXIT_MEMORY:
            return f"it takes more than {self._limits.memory_bytes >> 20} MiB of memory to read"
        return f"the process that read it ended with {code}"


def _read(read: Callable[[], bytes], answer: int, limits: ReloadLimits) -> None:
    """The whole life of the process."""
    set_up_child_process(NAME, ignore_sigterm=False)
    _limit_resources(limits)
    try:
        content = read()
    except MemoryError:
        sys.exit(EXIT_MEMORY)
    except Exception:
        log.exception("config_reader_failed")
        sys.exit(1)
    with open(answer, "wb", closefd=False) as file:
        file.write(content)


def _limit_resources(limits: ReloadLimits) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it may hold secrets
    cpu_s = math.ceil(limits.time_s)
    _lower(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)  # SIGXCPU at the first, SIGKILL at the second
    present_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most_bytes = present_bytes + limits.memory_bytes
    _lower(resource.RLIMIT_AS, most_bytes, most_bytes)


def _lower(which: int, soft: int, hard: int) -> None:
    _, present = resource.getrlimit(which)
    bound = hard if present == resource.RLIM_INFINITY else min(hard, present)
    resource.setrlimit(which, (min(soft, bound), bound))

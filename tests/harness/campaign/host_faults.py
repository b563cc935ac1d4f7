"""What the daemon's host does to it: its log's disk is full, its clock is stepped, a cleaner removes temporary files.

Each has two parts. `strike` does it, while the aggregator is held still. `undo` waits until the daemon has noticed what
can be noticed, makes the host whole again, and waits until the daemon has taken that in, too.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from tests.harness.clock_shim import HOUR_S, WallClock
from tests.harness.daemon import Daemon
from tests.harness.json_log import LogTail
from tests.harness.processes import children, living
from tests.harness.tmpfs import Tmpfs
from tests.harness.waiting import await_that

HANG_GUARD_S = 60.0
NAMED_AFTER_S = 1.0
MONITOR = "monitor-0"
STEPS, DROPPED = "txninsight_clock_steps_total", "txninsight_log_lines_dropped_total"
LAST_LOOP = "txninsight_child_last_loop_timestamp_seconds"


class HostFault(StrEnum):
    """What the host does."""

    FILL_LOG_DISK = "log disk full"
    CLOCK_AHEAD = "clock +1 h"
    CLOCK_BEHIND = "clock -1 h"
    CLEAN_TMP = "/tmp cleaned"


AHEAD_S = {HostFault.CLOCK_AHEAD: HOUR_S, HostFault.CLOCK_BEHIND: -HOUR_S}


class Host:
    """The daemon's host: the disk that holds its log (and nothing else), and its clock."""

    def __init__(self, daemon: Daemon, log: LogTail, log_disk: Tmpfs, clock: WallClock) -> None:
        self._daemon = daemon
        self._log = log
        self._log_disk = log_disk
        self._clock = clock
        self._counted = 0.0

    def prepare(self, fault: HostFault) -> None:
        """Note what will be compared. To be called while the daemon answers."""
        self._counted = self._daemon.total(DROPPED if fault is HostFault.FILL_LOG_DISK else STEPS)

    def strike(self, fault: HostFault) -> None:
        """Do it."""
        if fault is HostFault.FILL_LOG_DISK:
            self._log_disk.fill(self._daemon.log_file)
        elif fault is HostFault.CLEAN_TMP:
            clean_worker_files(self._log.pids()[MONITOR])
        else:
            self._clock.set_ahead(AHEAD_S[fault])

    def undo(self, fault: HostFault) -> float | None:
        """Make the host whole again; gives the moment at which the fault was noticed, if it is one that is counted."""
        if fault is HostFault.FILL_LOG_DISK:
            return self._make_room()
        if fault is HostFault.CLEAN_TMP:
            self._replace_monitor()
            return None
        noticed_at = self._await_more(STEPS)
        self._clock.set_ahead(0)
        self._await_more(STEPS)
        # Lines that were written under the wrong clock must not be the latest of their kind.
        written = self._checkpoints()
        self._await(lambda: self._checkpoints() > written, "a checkpoint under the right clock")
        return noticed_at

    # --- The log's disk -----------------------------------------------------------------------------------------------

    def _make_room(self) -> float:
        """Kill the monitor while no line can be written. The log does not name the next one, but the one after it."""
        noticed_at = self._await_more(DROPPED)
        known = self._log.pids()
        parent = self._parent()
        os.kill(known[MONITOR], signal.SIGKILL)
        self._await(lambda: _unknown(parent, known), "the monitor is replaced though no line can be written")
        self._log_disk.empty()
        self._await(lambda: self._is_named(parent, known), "the log names the monitor")
        return noticed_at

    def _is_named(self, parent: int, known: dict[str, int]) -> bool:
        """Whether the log knows all children again. Else the unknown one is killed, so that it names another one."""
        if self._log.pids() != known and not _unknown(parent, self._log.pids()):
            return bool(living([self._log.pids()[MONITOR]]))
        for pid in _unknown(parent, self._log.pids()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # The parent names a child right after the fork: one that is unknown after this pause will stay so.
        time.sleep(NAMED_AFTER_S)
        return False

    # --- Temporary files ----------------------------------------------------------------------------------------------

    def _replace_monitor(self) -> None:
        """Kill the monitor: the next one starts without the files, and its own metrics are shown."""
        before = self._log.pids()[MONITOR]
        os.kill(before, signal.SIGKILL)
        self._await(lambda: self._log.pids()[MONITOR] != before, "the monitor is replaced")
        started_at = time.time()
        self._await(lambda: self._daemon.total(LAST_LOOP, child=MONITOR) > started_at, "the new monitor's metrics")

    # --- Waiting ------------------------------------------------------------------------------------------------------

    def _await_more(self, counter: str) -> float:
        """Wait until this counter has grown since the last time; gives the moment."""
        found: list[float] = []

        def has_grown() -> bool:
            with contextlib.suppress(OSError):
                found[:] = [self._daemon.total(counter)]
            return bool(found) and found[0] > self._counted

        self._await(has_grown, f"{counter} grows")
        self._counted = found[0]
        return time.time()

    def _await(self, condition: Callable[[], object], what: str) -> None:
        await_that(condition, what, HANG_GUARD_S)

    def _checkpoints(self) -> int:
        return sum(line.get("event") == "checkpoint_written" for line in self._log.look())

    def _parent(self) -> int:
        assert self._daemon.process is not None
        return self._daemon.process.pid


def clean_worker_files(reader: int) -> None:
    """Remove the files in which readers keep their own metrics, and their directory if nothing else is in it."""
    mapped = [line.split(maxsplit=5)[-1].strip() for line in Path(f"/proc/{reader}/maps").read_text().splitlines()]
    directories = {Path(file).parent for file in mapped if file.endswith(".db")}
    assert directories, f"process {reader} maps no file of metrics"
    for directory in directories:
        for file in directory.glob("*.db"):
            file.unlink()
        with contextlib.suppress(OSError):
            directory.rmdir()


def _unknown(parent: int, known: dict[str, int]) -> set[int]:
    """The living children that the log does not name."""
    return set(children(parent)) - set(known.values())

"""The faults, and how each strikes: at a random moment, with work in flight, some in the middle of a checkpoint.

That work is in flight is made sure of, not hoped for. The aggregator is held still (SIGSTOP) until the log has grown:
what came meanwhile it cannot have applied. Then the fault strikes, and the aggregator goes on. Where a checkpoint is
to be hit, its writer is held still from wherever it was just then, as a slow disk would hold it.

What the host does (host_faults.py) strikes in the same way, and is undone once the daemon has noticed it.

Recovered is a daemon once the victim was replaced, /readyz says 200, and both views have applied all that was in the
log, and was decided, when the fault struck.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from tests.harness.campaign.host_faults import Host, HostFault
from tests.harness.clock_shim import WallClock
from tests.harness.json_log import LogTail, moment_of
from tests.harness.processes import children
from tests.harness.service_manager import ServiceManager
from tests.harness.tmpfs import Tmpfs
from tests.harness.waiting import await_that, until
from txninsightd.tools.stack.broker import Broker, admin

HANG_GUARD_S = 180.0
WRITER_LOOK_EVERY_S = 0.002
GROWTH_GUARD_S = 0.5
BATCH = 5
"""So many offsets that were not applied are a batch."""

GAP_S = (0.0, 0.6)
"""Between a recovery and the next fault."""

Ends = dict[tuple[str, int], int]


class Fault(StrEnum):
    """What is done to which process."""

    KILL_MONITOR = "kill -9 monitor"
    KILL_VALIDATOR = "kill -9 validator"
    KILL_AGGREGATOR = "kill -9 aggregator"
    KILL_PARENT = "kill -9 parent"
    KILL_WRITER = "kill -9 checkpoint writer"
    KILL_BROKER = "kill -9 broker"
    STOP_MONITOR = "SIGSTOP monitor"
    STOP_VALIDATOR = "SIGSTOP validator"
    STOP_AGGREGATOR = "SIGSTOP aggregator"
    STOP_PARENT = "SIGSTOP parent"

    @property
    def child(self) -> str | None:
        """The child that is hit, as the log names it."""
        names = {"monitor": "monitor-0", "validator": "validator-0", "aggregator": "aggregator"}
        return names.get(self.rpartition(" ")[2])


HANGS = (Fault.STOP_MONITOR, Fault.STOP_VALIDATOR, Fault.STOP_AGGREGATOR, Fault.STOP_PARENT)
KILLS = tuple(fault for fault in Fault if fault not in HANGS)
AnyFault = Fault | HostFault
FAULTS: tuple[AnyFault, ...] = (*Fault, *HostFault)


class InFlight(NamedTuple):
    """When the fault struck: records applied without verdict, and records in the log that were not applied at all."""

    undecided: int
    unapplied: int


class InjectedFault(NamedTuple):
    """One fault. `at`: epoch seconds; `noticed_s`: until a hang was called so, or a fault of the host was counted.

    `recovered_s`: from `at` to `recovered_at`; for the broker, from when it answered again.
    """

    fault: AnyFault
    at: float
    in_flight: InFlight
    in_checkpoint: bool
    noticed_s: float | None
    recovered_s: float
    recovered_at: float


class FaultInjector:
    """Strikes one daemon and its broker. To be used from the main thread, which the broker dies with.

    `require_load` raises when no more is written, for which one would wait in vain.
    """

    def __init__(
        self,
        service: ServiceManager,
        broker: Broker,
        topics: dict[str, int],
        seed: int,
        require_load: Callable[[], None],
        log_disk: Tmpfs,
        clock: WallClock,
    ) -> None:
        self.log = LogTail(service.daemon.log_file)
        self._host = Host(service.daemon, self.log, log_disk, clock)
        self._service = service
        self._daemon = service.daemon
        self._broker = broker
        self._draw = random.Random(seed)
        self._require_load = require_load
        self._refs = [(topic, partition) for topic, count in topics.items() for partition in range(count)]
        self._admin: AdminClient = admin(broker.bootstrap)

    def inject(self, fault: AnyFault, in_checkpoint: bool) -> InjectedFault:
        """At a random moment from now. Returns when all is well again."""
        time.sleep(self._draw.uniform(*GAP_S))
        if isinstance(fault, HostFault):
            self._host.prepare(fault)
        with contextlib.ExitStack() as held:
            in_flight, writer = self._in_flight(held, in_checkpoint or fault is Fault.KILL_WRITER)
            before, ended = self.log.pids(), len(self._service.ended)
            decided = self._ends(IsolationLevel.READ_COMMITTED)
            written = self._ends(IsolationLevel.READ_UNCOMMITTED)
            at = since = time.time()
            self._hit(fault, before, writer)
            if fault is Fault.STOP_AGGREGATOR:
                held.pop_all()
                if writer is not None:
                    _signal(writer, signal.SIGCONT)
        if fault is Fault.KILL_BROKER:
            self._broker.start()
            since = time.time()
            self._await(self._knows_leaders, "the partitions have leaders again")
        noticed_at = self._await_replaced(fault, before, at, ended)
        self._await_recovered(written, decided, since if fault is Fault.KILL_BROKER else 0.0)
        now = time.time()
        noticed_s = noticed_at - at if noticed_at is not None else None
        return InjectedFault(fault, at, in_flight, writer is not None, noticed_s, now - since, now)

    # --- What is in flight --------------------------------------------------------------------------------------------

    def _in_flight(self, held: contextlib.ExitStack, in_checkpoint: bool) -> tuple[InFlight, int | None]:
        """Hold the daemon in a moment in which something is; gives the checkpoint's writer, if there should be one."""
        found: list[tuple[InFlight, int | None]] = []
        for _ in until(lambda: found, "something is in flight", HANG_GUARD_S):
            self._require_load()
            writer = self._await_writer() if in_checkpoint else None
            if writer is not None:
                hold_still(writer, held)
            in_flight = self._await_in_flight(held)
            if in_flight is not None and (writer is None or is_held(writer)):
                found.append((in_flight, writer))
            else:
                held.close()
                time.sleep(GROWTH_GUARD_S)
        return found[0]

    def _await_in_flight(self, held: contextlib.ExitStack) -> InFlight | None:
        """None when nothing was in flight this time."""
        undecided = int(self._daemon.total("txninsight_undecided_records"))
        if not undecided:
            return None
        aggregator = self.log.pids()["aggregator"]
        hold_still(aggregator, held)
        first = self._ends(IsolationLevel.READ_UNCOMMITTED)
        deadline = time.monotonic() + GROWTH_GUARD_S
        while time.monotonic() < deadline:
            unapplied = sum(self._ends(IsolationLevel.READ_UNCOMMITTED).values()) - sum(first.values())
            if unapplied >= BATCH and self.log.pids()["aggregator"] == aggregator:
                return InFlight(undecided, unapplied)
        return None

    def _await_writer(self) -> int:
        aggregator = self.log.pids()["aggregator"]
        writers: list[int] = []
        for _ in until(lambda: writers, "a checkpoint is written", HANG_GUARD_S):
            time.sleep(WRITER_LOOK_EVERY_S)
            writers.extend(children(aggregator))
        return writers[0]

    def _ends(self, isolation: IsolationLevel) -> Ends:
        """Where each partition ends, for all readers or for those that read what is committed."""
        asked = {TopicPartition(topic, partition): OffsetSpec.latest() for topic, partition in self._refs}
        answers = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=30.0)
        return {(ref.topic, ref.partition): answer.result().offset for ref, answer in answers.items()}

    def _knows_leaders(self) -> bool:
        """A client that has known the broker before its end must learn of the new terms of office first."""
        self._admin.list_topics(timeout=HANG_GUARD_S)
        try:
            return bool(self._ends(IsolationLevel.READ_UNCOMMITTED))
        except KafkaException:
            return False

    # --- The fault ----------------------------------------------------------------------------------------------------

    def _hit(self, fault: AnyFault, pids: dict[str, int], writer: int | None) -> None:
        number = signal.SIGSTOP if fault in HANGS else signal.SIGKILL
        if isinstance(fault, HostFault):
            self._host.strike(fault)
        elif fault is Fault.KILL_BROKER:
            self._broker.kill()
        elif fault in (Fault.KILL_PARENT, Fault.STOP_PARENT):
            os.kill(self._service.pid(), number)
        elif fault is Fault.KILL_WRITER:
            assert writer is not None
            os.kill(writer, number)
        else:
            assert fault.child is not None
            os.kill(pids[fault.child], number)

    # --- Recovery -----------------------------------------------------------------------------------------------------

    def _await_replaced(self, fault: AnyFault, before: dict[str, int], at: float, ended: int) -> float | None:
        """Wait until the victim is replaced, or the host is whole again; gives the moment at which it was noticed."""
        if isinstance(fault, HostFault):
            return self._host.undo(fault)
        if fault is Fault.KILL_WRITER:
            self._await(lambda: self._last("checkpoint_written") > at, "another checkpoint is written")
        elif fault in (Fault.KILL_PARENT, Fault.STOP_PARENT):
            self._await(lambda: len(self._service.ended) > ended, "the service manager has noticed")
            noticed_at = time.time()
            self._await(lambda: not self._same(before), "every child is replaced")
            return noticed_at if fault in HANGS else None
        elif fault is Fault.STOP_AGGREGATOR or fault is Fault.KILL_AGGREGATOR:
            self._await(lambda: not self._same(before), "every child is replaced")
        elif fault is not Fault.KILL_BROKER:
            self._await(lambda: fault.child not in self._same(before), f"{fault.child} is replaced")
        return self._last("child_hung") if fault in HANGS else None

    def _same(self, before: dict[str, int]) -> set[str]:
        """The children that are still those that they were."""
        now = self.log.pids()
        return {name for name, pid in before.items() if now[name] == pid}

    def _last(self, event: str) -> float:
        """When the log last told of this event."""
        lines = self.log.look()
        return next((moment_of(line) for line in reversed(lines) if line.get("event") == event), 0.0)

    def _await_recovered(self, written: Ends, decided: Ends, seen_after: float) -> None:
        self._await(lambda: self._has_recovered(written, decided, seen_after), "it has recovered")

    def _has_recovered(self, written: Ends, decided: Ends, seen_after: float) -> bool:
        if self._daemon.status("/readyz") != 200:
            return False
        try:
            partitions = self._daemon.get("/api/v1/partitions")
        except OSError:
            return False
        return bool(partitions) and all(_reached(p, written, decided, seen_after) for p in partitions)

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        await_that(condition, what, HANG_GUARD_S, output=self._last_words)

    def _last_words(self) -> str:
        telling = [line for line in self.log.look() if line.get("level") != "debug"]
        return "\n".join(map(str, telling[-15:]))


def _reached(partition: dict[str, Any], written: Ends, decided: Ends, seen_after: float) -> bool:
    """The idle partitions, which have no ends here, count by their `as_of` alone."""
    ref = partition["topic"], partition["partition"]
    as_of = min(partition["monitor_as_of"] or 0.0, partition["validator_as_of"] or 0.0)
    return (
        partition["monitor_offset"] >= written.get(ref, 0)
        and partition["validator_offset"] >= decided.get(ref, 0)
        and as_of > seen_after
    )


def hold_still(pid: int, held: contextlib.ExitStack) -> None:
    """Hold a process still, as long as it lives, until `held` is closed."""
    held.callback(_signal, pid, signal.SIGCONT)
    _signal(pid, signal.SIGSTOP)


def is_held(pid: int) -> bool:
    """Whether a process is held still; one that has ended is not, though it may not be reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

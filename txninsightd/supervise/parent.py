"""The parent: forks the children, restarts the dead, stops all in order. No threads, no Kafka client, no state.

Receivers start first and stop last. A dead reader is restarted alone: it gets a new line, and the aggregator tells it
where to go on. When the aggregator dies, everything is restarted, since all state was its own. Each restart waits
longer than the one before; a child that dies too often ends the daemon with EXIT_GAVE_UP, one that says it can never
work (EXIT_UNUSABLE, or EXIT_CANNOT_LISTEN and EXIT_STATE at the first start) ends it at once. A child whose work loop
has fallen silent is killed, and that is a death like any other. systemd is told what it wants to know; its watchdog is
fed only when this loop has come round and found no child hung. Signal handlers only take note; the loop does the rest.
"""

import math
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from txninsightd.supervise.backoff import Backoff
from txninsightd.supervise.channel import descriptor_pair
from txninsightd.supervise.child import STOP_SIGNALS
from txninsightd.supervise.control import control_pair, in_memory, receive, send
from txninsightd.supervise.heartbeats import Heartbeats, Watch
from txninsightd.supervise.notify import Notifier
from txninsightd.vocabulary import (
    Attach,
    ChildrenStatus,
    ChildStatus,
    FromAggregator,
    Reload,
    Reloads,
    Report,
    Stop,
    View,
)

EXIT_GAVE_UP = 3
EXIT_UNUSABLE = 4
EXIT_KILLED = 5
EXIT_CANNOT_LISTEN = 6
EXIT_STATE = 7

NO_REPORT = Report(False, "the aggregator does not serve yet")

log = structlog.get_logger()


class Limits(NamedTuple):
    """How patient the parent is; seconds."""

    backoff_initial_s: float
    backoff_max_s: float
    give_up_after: int
    give_up_window_s: float
    stop_timeout_s: float
    heartbeat_timeout_s: float


class Programs(NamedTuple):
    """What the children run. Each is called in the child, and what it returns or raises ends the child."""

    aggregator: Callable[[socket.socket], None]
    reader: Callable[[View, int, int], None]


def reader_name(view: View, index: int) -> str:
    """As in logs, metrics and process lists."""
    return f"{view.value}-{index}"


def child_names(counts: dict[View, int]) -> list[str]:
    """All children that there will ever be; `counts`: how many readers share each view."""
    return ["aggregator", *(reader_name(view, i) for view, count in counts.items() for i in range(count))]


class Slot:
    """A place for one reader at a time."""

    def __init__(self, view: View, index: int, backoff: Backoff) -> None:
        self.view = view
        self.index = index
        self.backoff = backoff
        self.process: BaseProcess | None = None
        # The first start is no restart.
        self.restarts = -1
        self.start_at = 0.0

    @property
    def name(self) -> str:
        """The child's name."""
        return reader_name(self.view, self.index)


class Parent:
    """`counts`: how many readers share each view. `heartbeats` has a slot for each of `child_names(counts)`.

    `reload` reads the config anew, for all who are forked from then on, and gives what the aggregator that lives must
    be told of it; None when the file is refused.
    `now`: seconds that no setting of the wall clock moves.
    """

    def __init__(
        self,
        programs: Programs,
        counts: dict[View, int],
        limits: Limits,
        heartbeats: Heartbeats,
        notifier: Notifier,
        now: Callable[[], float],
        reload: Callable[[], bytes | None],
    ) -> None:
        self._programs = programs
        self._limits = limits
        self._watch = Watch(heartbeats, limits.heartbeat_timeout_s)
        self._notifier = notifier
        self._report = NO_REPORT
        self._ready = False
        # Process ids of those that were killed for their silence, so that each is told once.
        self._hung: set[int | None] = set()
        self._now = now
        self._context = get_context("fork")
        self._slots = [Slot(view, i, self._backoff()) for view, count in counts.items() for i in range(count)]
        self._aggregator: BaseProcess | None = None
        self._aggregator_backoff = self._backoff()
        self._aggregator_restarts = -1
        self._aggregator_start_at = 0.0
        self._control: socket.socket | None = None
        self._signals: list[int] = []
        self._hangups: list[int] = []
        self._reload = reload
        self._reloads = Reloads()
        # A config that the aggregator which lives was not told of yet.
        self._untold: bytes | None = None
        self._woken, self._wake = os.pipe()
        self._told: ChildrenStatus | None = None
        self._names = child_names(counts)

    def run(self) -> int:
        """Supervise until a signal or despair; gives the exit code."""
        self._listen_to_signals()
        log.info("daemon_started", pid=os.getpid(), readers=len(self._slots))
        try:
            while not self._signals:
                # Before the starts, so that whoever is forked below goes by the new config already.
                self._reload_if_asked()
                self._start_what_is_due()
                self._send_config()
                self._send_children_status()
                self._notify_systemd()
                self._wait()
                verdict = self._reap_exited()
                if verdict:
                    self._kill_all()
                    return verdict
                # After the burial: the dead fall silent, too.
                self._kill_the_hung()
        except BaseException:
            self._kill_all()
            raise
        finally:
            signal.set_wakeup_fd(-1)
        log.info("daemon_stopping", signal=signal.Signals(self._signals[0]).name)
        return self._stop_in_order()

    # --- Signals ------------------------------------------------------------------------------------------------------

    def _listen_to_signals(self) -> None:
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        # A handler alone does not end `wait`, which goes on waiting after it (PEP 475); the byte in this pipe does. One
        # that is full wakes just as well.
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, lambda number, _: self._hangups.append(number))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._signals.append(number))

    def _backoff(self) -> Backoff:
        limits = self._limits
        return Backoff(limits.backoff_initial_s, limits.backoff_max_s, limits.give_up_after, limits.give_up_window_s)

    # --- Reloading ----------------------------------------------------------------------------------------------------

    def _reload_if_asked(self) -> None:
        if not self._hangups:
            return
        # Before the file is read: who asks meanwhile may have changed it again.
        self._hangups.clear()
        # Until the service is ready, the READY=1 that is to come is that of its start, not of a reload.
        if self._ready:
            self._notifier.reloading()
        config, counts = self._reload(), self._reloads
        if config is None:
            self._reloads = Reloads(counts.applied, counts.refused + 1, good=False)
        else:
            self._untold = config
            self._reloads = Reloads(counts.applied + 1, counts.refused, good=True)
        if self._ready:
            # Where it could not be delivered, `_notify_systemd` says it again.
            self._ready = self._notifier.ready()

    def _send_config(self) -> None:
        """Until the aggregator that lives has it. One that is forked after the reload has it already."""
        if self._untold is None or self._control is None:
            return
        descriptor = in_memory(self._untold)
        if send(self._control, Reload(), descriptor):
            self._untold = None
        os.close(descriptor)

    # --- Starting -----------------------------------------------------------------------------------------------------

    def _start_what_is_due(self) -> None:
        now = self._now()
        if self._aggregator is None and now >= self._aggregator_start_at:
            self._start_aggregator()
        if self._control is not None:
            for slot in self._slots:
                if slot.process is None and now >= slot.start_at:
                    self._start_reader(slot, self._control)

    def _fork(self, name: str, program: Callable[[], None]) -> BaseProcess:
        """Fork with the stop signals blocked, so that none is lost before the child has its own handlers."""
        process = self._context.Process(target=program, name=name)
        # Before the fork: the first beat of the child must not be overwritten.
        self._watch.forked(name)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        log.info("child_started", child=name, pid=process.pid)
        return process

    def _start_aggregator(self) -> None:
        ours, theirs = control_pair()

        def program() -> None:
            # With a copy of the parent's end in it, the aggregator would never hear that the parent is gone.
            ours.close()
            self._programs.aggregator(theirs)

        self._report = NO_REPORT
        self._aggregator = self._fork("aggregator", program)
        self._aggregator_restarts += 1
        theirs.close()
        self._control = ours
        # A new aggregator has not heard of the family, and was forked with the newest config.
        self._told = None
        self._untold = None

    def _start_reader(self, slot: Slot, control: socket.socket) -> None:
        ours, theirs = descriptor_pair()

        def program() -> None:
            os.close(ours)
            control.close()
            self._programs.reader(slot.view, slot.index, theirs)

        slot.process = self._fork(slot.name, program)
        slot.restarts += 1
        os.close(theirs)
        # Where this fails, nobody has the other end once ours is closed: the reader hears that, and ends.
        send(control, Attach(slot.view, slot.index), ours)
        os.close(ours)

    # --- Watching -----------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Until something happens: a signal, a death, a word from the aggregator, a restart or a look that is due."""
        due = [self._aggregator_start_at] if self._aggregator is None else []
        # While the aggregator dies slowly, readers that are due are not started, and must not make this loop spin.
        if self._control is not None:
            due += [s.start_at for s in self._slots if s.process is None]
        timeout = max(0.0, min(due) - self._now()) if due else math.inf
        timeout = min(timeout, self._watch.every_s, self._notifier.every_s)
        control = [self._control] if self._control is not None else []
        for ready in wait([*(p.sentinel for p in self._living()), self._woken, *control], timeout):
            if ready == self._woken:
                os.read(self._woken, 4096)
            elif ready is self._control:
                self._receive_report()

    def _receive_report(self) -> None:
        assert self._control is not None
        try:
            body, _ = receive(self._control)
        except BlockingIOError:
            return
        if not body:  # the aggregator is dead, or about to be
            self._control.close()
            self._control = None
            return
        self._report = msgspec.msgpack.decode(body, type=FromAggregator)

    def _reap_exited(self) -> int:
        """Plan a restart for every child that has died; gives an exit code when there is no hope."""
        # First, since it takes the readers along: that they end, too, is no death that counts against them.
        if self._aggregator is not None and not self._aggregator.is_alive():
            return self._reap_aggregator()
        for slot in self._slots:
            if slot.process is not None and not slot.process.is_alive():
                code = slot.process.exitcode
                slot.process = None
                wait_s = slot.backoff.died(self._now())
                slot.start_at = self._now() + wait_s
                log.error("child_died", child=slot.name, exit_code=code, restart_in_s=wait_s)
                if code == EXIT_UNUSABLE:
                    return EXIT_UNUSABLE
                if slot.backoff.hopeless:
                    log.error("gave_up", child=slot.name)
                    return EXIT_GAVE_UP
        return 0

    def _reap_aggregator(self) -> int:
        assert self._aggregator is not None
        code = self._aggregator.exitcode
        self._aggregator = None
        wait_s = self._aggregator_backoff.died(self._now())
        self._aggregator_start_at = self._now() + wait_s
        log.error("child_died", child="aggregator", exit_code=code, restart_in_s=wait_s)
        for slot in self._slots:
            self._kill(slot)
            slot.start_at = 0.0
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._aggregator_backoff.hopeless:
            log.error("gave_up", child="aggregator")
            return EXIT_GAVE_UP
        # At the first start it is for the operator to mend; what has worked before may work again.
        first = self._aggregator_restarts == 0
        return code if code == EXIT_UNUSABLE or (code in (EXIT_CANNOT_LISTEN, EXIT_STATE) and first) else 0

    def _living(self) -> list[BaseProcess]:
        return [p for p in (self._aggregator, *(s.process for s in self._slots)) if p is not None]

    def _kill_the_hung(self) -> None:
        """SIGKILL reaches a stopped process too; its death is noticed as any other. None hung: the watchdog is fed."""
        self._watch.look()
        hung = [process for process in self._living() if self._watch.is_hung(process.name)]
        for process in hung:
            # Whom the kernel does not let go of (D, disk sleep) stays hung, and the watchdog unfed.
            if process.pid not in self._hung:
                self._hung.add(process.pid)
                silence_s = round(self._watch.silence_s(process.name), 1)
                state = _state_of(process.pid)
                log.error("child_hung", child=process.name, pid=process.pid, age_s=silence_s, state=state)
                process.kill()
        if not hung:
            self._hung.clear()
            self._notifier.feed(self._now())

    # --- Telling ------------------------------------------------------------------------------------------------------

    def _notify_systemd(self) -> None:
        """Ready, once: the aggregator serves and every work loop comes round. Whether Kafka answers is not asked."""
        waits_for = [name for name in self._names if not self._watch.has_beaten(name)]
        if not self._ready and self._report.serving and not waits_for:
            # Where it could not be delivered, the next turn says it again.
            self._ready = self._notifier.ready()
        self._notifier.status(self._status(waits_for))

    def _status(self, waits_for: list[str]) -> str:
        if self._aggregator is None:
            return "the aggregator died and is about to be started again"
        if not self._report.serving:
            return f"starting: {self._report.status}"
        if waits_for and not self._ready:
            return f"starting: waiting for {', '.join(waits_for)}"
        return self._report.status

    def _send_children_status(self) -> None:
        status = [ChildStatus(s.name, s.process is not None, max(0, s.restarts)) for s in self._slots]
        status.append(ChildStatus("aggregator", self._aggregator is not None, max(0, self._aggregator_restarts)))
        children_status = ChildrenStatus(status, self._reloads)
        if children_status != self._told and self._control is not None and send(self._control, children_status):
            self._told = children_status

    # --- Stopping -----------------------------------------------------------------------------------------------------

    def _kill(self, slot: Slot) -> None:
        if slot.process is not None:
            slot.process.kill()
            slot.process.join()
            slot.process = None

    def _stop_in_order(self) -> int:
        """Senders first; then the aggregator takes in what they have sent. 0 if all went as it should.

        Readers have half of the time; one that does not stop in it is killed, so that its line ends, and the aggregator
        has the other half.
        """
        self._notifier.stopping()
        self._notifier.status("stopping")
        stop_timeout_s = self._limits.stop_timeout_s
        deadline = self._now() + stop_timeout_s
        readers = [slot.process for slot in self._slots if slot.process is not None]
        for process in readers:
            process.terminate()
        # A list, no generator; and below, the call before the `and`: each is awaited, whatever became of the others.
        orderly = all([self._await(process, deadline - stop_timeout_s / 2) for process in readers])
        for slot in self._slots:
            self._kill(slot)
        if self._control is not None and self._aggregator is not None:
            send(self._control, Stop())
            orderly = self._await(self._aggregator, deadline) and orderly
        self._kill_all()
        log.info("daemon_stopped", orderly=orderly)
        return 0 if orderly else EXIT_KILLED

    def _await(self, process: BaseProcess, deadline: float) -> bool:
        process.join(max(0.0, deadline - self._now()))
        if process.exitcode is None:
            log.error("child_did_not_stop", child=process.name)
        return process.exitcode == 0

    def _kill_all(self) -> None:
        for slot in self._slots:
            self._kill(slot)
        if self._aggregator is not None:
            self._aggregator.kill()
            self._aggregator.join()
            self._aggregator = None


def _state_of(pid: int | None) -> str:
    """What the kernel says of a process: `T (stopped)`, `R (running)`, `D (disk sleep)`."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("State:"):
                return line.partition(":")[2].strip()
    return "unknown"

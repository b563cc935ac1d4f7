"""The parent: forks the children, restarts those that exit, stops all in order. No threads, no Kafka client, no state.

Receivers start first and stop last. A child that exits is restarted alone: it gets a new line, and the aggregator sends
it what it needs to go on. When the aggregator exits, everything is restarted, since it held all state. Each restart
waits longer than the one before. A child that exits too often ends the daemon with EXIT_GAVE_UP; one that can never
work (EXIT_UNUSABLE, or EXIT_CANNOT_LISTEN, EXIT_STATE and EXIT_HOST_LIMIT at the first start) ends it at once. A child
that stops beating is killed, which is an exit like any other. So is a start that the host refuses. A reload of the
config is read by a process of its own, and nothing waits for it (config_reload.py). systemd is notified; its watchdog
is fed only when this loop has completed a turn and found no child hung.
"""

import math
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

import structlog

from txninsightd import host_limits
from txninsightd.host_limits import EXIT_HOST_LIMIT
from txninsightd.log_output import OUTPUT
from txninsightd.supervise.backoff import Backoff
from txninsightd.supervise.channel import descriptor_pair
from txninsightd.supervise.children import Child, ChildSpec, Exit, LineKind, run_child
from txninsightd.supervise.config_reload import ConfigReload, Finished
from txninsightd.supervise.control import ControlLine, control_pair
from txninsightd.supervise.exit_codes import (
    EXIT_CANNOT_LISTEN,
    EXIT_GAVE_UP,
    EXIT_KILLED,
    EXIT_NOT_SAVED,
    EXIT_STATE,
    EXIT_UNUSABLE,
)
from txninsightd.supervise.heartbeats import HangDetector, Heartbeats
from txninsightd.supervise.notify import Notifier
from txninsightd.supervise.signals import Signals
from txninsightd.vocabulary import ChildrenStatus, ChildStatus, Reloads

log = structlog.get_logger()


class Limits(NamedTuple):
    """How long the parent waits, and when it gives up; seconds."""

    backoff_initial_s: float
    backoff_max_s: float
    give_up_after: int
    give_up_window_s: float
    stop_timeout_s: float
    heartbeat_timeout_s: float


class Parent:
    """Runs `specs`, each of another name; exactly one of them, the aggregator, has the control line.

    `config_reload` reads the config again, for all children that are forked from then on. `now`: seconds that no change
    of the wall clock moves. `signals`: if they are noted already.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        limits: Limits,
        notifier: Notifier,
        now: Callable[[], float],
        config_reload: ConfigReload,
        signals: Signals | None = None,
    ) -> None:
        children = [Child(spec, _backoff(limits)) for spec in specs]
        (self._aggregator,) = (child for child in children if child.spec.line is LineKind.CONTROL)
        self._senders = [child for child in children if child.spec.line is LineKind.DATA]
        self._limits = limits
        names = [spec.name for spec in specs]
        if len(set(names)) < len(names):
            raise ValueError(f"two children of one name: {', '.join(names)}")
        self._heartbeats = Heartbeats(names)
        OUTPUT.share(names)
        self._hang_detector = HangDetector(self._heartbeats, limits.heartbeat_timeout_s)
        self._notifier = notifier
        self._now = now
        self._config_reload = config_reload
        self._reloads = Reloads()
        self._told_reloading = False
        self._signals = signals if signals is not None else Signals()
        self._control = ControlLine()
        self._ready = False

    def run(self) -> int:
        """Supervise until a signal, or until a child cannot go on; gives the exit code."""
        self._signals.install()
        log.info("daemon_started", pid=os.getpid(), children=len(self._children))
        try:
            while self._signals.stop_signal is None:
                # Reload first: children that are forked below then start with the new config.
                self._reload()
                self._start_what_is_due()
                self._control.send_pending(ChildrenStatus(self._statuses(), self._reloads))
                self._notify_systemd()
                self._wait()
                exit_code = self._reap_exited()
                if exit_code:
                    self._kill_all()
                    return exit_code
                # Reap first: exited children also stop beating.
                self._kill_hung()
        except BaseException:
            self._kill_all()
            raise
        finally:
            self._config_reload.cancel()
            self._signals.uninstall()
        log.info("daemon_stopping", signal=signal.Signals(self._signals.stop_signal).name)
        return self._stop_in_order()

    @property
    def _children(self) -> list[Child]:
        """All of them, in the order in which they start."""
        return [self._aggregator, *self._senders]

    def _statuses(self) -> list[ChildStatus]:
        return [child.status() for child in (*self._senders, self._aggregator)]

    # --- Reloading ----------------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Finish the reload that is in work, and begin one that is due. Never waits."""
        now = self._now()
        if self._signals.take_hangup():
            self._config_reload.ask(now)
        self._count(self._config_reload.finished(now))
        if self._config_reload.is_due(now):
            # Until the service is ready, the READY=1 that follows is that of its start, not of a reload.
            self._told_reloading = self._ready
            if self._ready:
                self._notifier.reloading()
            self._count(self._config_reload.begin(now))

    def _count(self, finished: Finished | None) -> None:
        if finished is None:
            return
        counts = self._reloads
        if finished.config is None:
            self._reloads = Reloads(counts.applied, counts.refused + 1, good=False)
        else:
            # Children that were forked meanwhile have the old config: the aggregator tells them, too.
            self._control.reload(finished.config)
            self._reloads = Reloads(counts.applied + 1, counts.refused, good=True)
        if self._told_reloading:
            # If this is not delivered, `_notify_systemd` repeats it.
            self._ready = self._notifier.ready()

    # --- Starting -----------------------------------------------------------------------------------------------------

    def _start_what_is_due(self) -> None:
        if self._aggregator.is_due(self._now()):
            self._start(self._aggregator, self._start_aggregator)
        for child in self._startable_senders():
            if child.is_due(self._now()):
                self._start(child, partial(self._start_sender, child))

    def _start(self, child: Child, start: Callable[[], None]) -> None:
        """Start it. A limit of the host that prevents it is logged, and counts as an exit of the child."""
        try:
            start()
        except OSError as failure:
            if host_limits.limit_behind(failure, at_fork=True) is None:
                raise
            restart_in_s = child.refused(self._now())
            host_limits.log_if_limit(failure, at_fork=True, child=child.name, restart_in_s=restart_in_s)

    def _startable_senders(self) -> list[Child]:
        """None while the control line is closed: the aggregator is exiting then, and takes no new lines."""
        return self._senders if self._control.open_end is not None else []

    def _start_aggregator(self) -> None:
        ours, theirs = control_pair()
        # Without closing its copy of the parent's end, the aggregator would not notice that the parent has gone.
        try:
            self._fork(self._aggregator, theirs.detach(), close_parents_ends=ours.close)
        except OSError:
            ours.close()
            raise
        self._control = ControlLine(ours)

    def _start_sender(self, child: Child) -> None:
        ours, theirs = descriptor_pair()

        def close_parents_ends() -> None:
            os.close(ours)
            self._control.close()

        try:
            self._fork(child, theirs, close_parents_ends)
        except OSError:
            os.close(ours)
            raise
        self._control.attach(child.name, ours)

    def _fork(self, child: Child, line: int, close_parents_ends: Callable[[], None]) -> None:
        """Start the child's process with its end of the line, which is then closed here."""

        def program() -> None:
            close_parents_ends()
            self._config_reload.close_in_child()
            run_child(child.spec, line, self._heartbeats)

        self._hang_detector.about_to_fork(child.name)
        try:
            child.fork(program)
        finally:
            os.close(line)

    # --- Watching -----------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Until something happens: a signal, an exit, a report, or a start, a reload or a check that is due."""
        due = [c.start_at for c in (self._aggregator, *self._startable_senders()) if not c.is_up]
        timeout = max(0.0, min(due) - self._now()) if due else math.inf
        reload_due_s = self._config_reload.due_in_s(self._now())
        timeout = min(timeout, self._hang_detector.every_s, self._notifier.every_s, reload_due_s)
        control = self._control.open_end
        sentinels = [child.process.sentinel for child in self._children if child.is_up]
        sentinels += self._config_reload.sentinels
        for ready in wait([*sentinels, self._signals.fileno(), *([control] if control is not None else [])], timeout):
            if ready == self._signals.fileno():
                self._signals.clear_wakeup()
            elif ready is control:
                self._control.receive_report()

    def _reap_exited(self) -> int:
        """Plan a restart for every child that has exited; gives an exit code when the daemon cannot go on."""
        exited = self._aggregator.reap(self._now())
        if exited is not None:
            # The senders go with the aggregator; their exits do not count against them.
            for sender in self._senders:
                sender.kill()
            self._control.close()
            return self._final_code(self._aggregator, exited)
        for sender in self._senders:
            exited = sender.reap(self._now())
            if exited is not None and (code := self._final_code(sender, exited)):
                return code
        return 0

    def _final_code(self, child: Child, exited: Exit) -> int:
        """The daemon's exit code if this exit ends it, else 0."""
        if exited.code == EXIT_UNUSABLE:
            return exited.code
        # At the first start these are for the operator to fix; what has worked before may work again.
        if exited.first and exited.code in (EXIT_CANNOT_LISTEN, EXIT_STATE) and child is self._aggregator:
            return exited.code
        if exited.first and exited.code == EXIT_HOST_LIMIT and not self._hang_detector.has_beaten(child.name):
            return exited.code
        if exited.too_often:
            log.error("gave_up", child=child.name)
            return EXIT_HOST_LIMIT if exited.code == EXIT_HOST_LIMIT else EXIT_GAVE_UP
        return 0

    def _kill_hung(self) -> None:
        """SIGKILL reaches a stopped process too; the exit is reaped as any other. With none hung, feed the watchdog."""
        self._hang_detector.check()
        hung = [child for child in self._children if child.is_up and self._hang_detector.is_hung(child.name)]
        for child in hung:
            # A process that the kernel does not release (D, disk sleep) stays hung, and the watchdog unfed.
            if not child.killed_as_hung:
                child.killed_as_hung = True
                pid, silence_s = child.process.pid, round(self._hang_detector.silence_s(child.name), 1)
                log.error("child_hung", child=child.name, pid=pid, age_s=silence_s, state=_kernel_state(pid))
                child.process.kill()
        if not hung:
            self._notifier.feed(self._now())

    # --- Notifying ----------------------------------------------------------------------------------------------------

    def _notify_systemd(self) -> None:
        """Ready, once: the aggregator serves and every work loop runs. Whether Kafka answers does not matter here."""
        awaited = [child.name for child in self._children if not self._hang_detector.has_beaten(child.name)]
        if not self._ready and self._control.report.serving and not awaited:
            # If this is not delivered, the next turn repeats it.
            self._ready = self._notifier.ready()
        self._notifier.status(self._status(awaited))

    def _status(self, awaited: list[str]) -> str:
        report = self._control.report
        if not self._aggregator.is_up:
            return "the aggregator died and is about to be started again"
        if not report.serving:
            return f"starting: {report.status}"
        if awaited and not self._ready:
            return f"starting: waiting for {', '.join(awaited)}"
        return report.status

    # --- Stopping -----------------------------------------------------------------------------------------------------

    def _stop_in_order(self) -> int:
        """Senders first; then the aggregator takes in what they have sent. 0 if all stop as they should.

        Senders have half of the time. One that does not stop in it is killed, so that its line ends, and the aggregator
        has the other half. An aggregator that does not serve yet is killed in order: it may be restoring its state for
        long, and has nothing that is not on disk or in Kafka.
        """
        self._notifier.stopping()
        self._notifier.status("stopping")
        stop_timeout_s = self._limits.stop_timeout_s
        deadline = self._now() + stop_timeout_s
        # One that has just exited by itself is no matter of stopping.
        running = [child for child in self._senders if child.is_up and child.process.is_alive()]
        for child in running:
            child.process.terminate()
        # A list, so that each is awaited even when another did not stop in order.
        in_order = [child.stops_by(deadline - stop_timeout_s / 2, self._now()) for child in running]
        for child in running:
            child.kill()
        if self._control.open_end is not None and self._control.report.serving and self._aggregator.is_up:
            self._control.stop()
            stopped = self._aggregator.stops_by(deadline, self._now())
            in_order.append(stopped or self._aggregator.exited_with(EXIT_NOT_SAVED))
        not_saved = self._aggregator.exited_with(EXIT_NOT_SAVED)
        self._kill_all()
        orderly = all(in_order)
        log.info("daemon_stopped", orderly=orderly)
        if not_saved:
            return EXIT_NOT_SAVED
        return 0 if orderly else EXIT_KILLED

    def _kill_all(self) -> None:
        for child in (*self._senders, self._aggregator):
            child.kill()


def _backoff(limits: Limits) -> Backoff:
    return Backoff(limits.backoff_initial_s, limits.backoff_max_s, limits.give_up_after, limits.give_up_window_s)


def _kernel_state(pid: int | None) -> str:
    """What the kernel says of a process: `T (stopped)`, `R (running)`, `D (disk sleep)`."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("State:"):
                return line.partition(":")[2].strip()
    return "unknown"

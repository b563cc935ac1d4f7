"""Reader processes that do nothing but report their health."""

from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from txninsightd.expose.worker_health import WorkerHealth

_context = get_context("fork")
JOIN_GUARD_S = 60


class DummyReader:
    """A forked process that beats when it is told to, until it is killed."""

    def __init__(self, slot: str, directory: Path) -> None:
        self._line, other = _context.Pipe()
        self.process: BaseProcess = _context.Process(target=_work, args=(slot, directory, other), daemon=True)
        self.process.start()
        other.close()

    def beat(self, now: float, queue_depth: int, paused: bool) -> None:
        """Its loop comes round at `now`; returns once that is done."""
        self._line.send((now, queue_depth, paused))
        assert self._line.poll(JOIN_GUARD_S)
        self._line.recv()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.join(JOIN_GUARD_S)
        self._line.close()


def beat_in_a_fork(slot: str, directory: Path, now: float, queue_depth: int, paused: bool) -> None:
    """One beat of a process that is gone afterwards."""
    reader = DummyReader(slot, directory)
    reader.beat(now, queue_depth, paused)
    reader.kill()


def _work(slot: str, directory: Path, line: Connection) -> None:
    moment = 0.0
    health = WorkerHealth(slot, directory, lambda: None, lambda: moment)
    while True:
        moment, queue_depth, paused = line.recv()
        health.beat(queue_depth, paused)
        line.send(None)

"""Checkpoints while the loop goes on: what callers are told when the writer dies, hangs, fails, or stands in the way.

The writer is a real forked process and the loop a real one; only the ledger is small.
"""

import asyncio
import errno
import os
import resource
import signal
import socket
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.harness.core.by_hand import CLOSE, OPEN, A, cover, discover, ev, side_by_side, sight
from tests.harness.core.core import Core
from tests.harness.gated_store import GatedStore
from txninsightd.aggregate import checkpoint
from txninsightd.aggregate.checkpoint import NICER_BY, Checkpoints
from txninsightd.aggregate.recovery import recover
from txninsightd.aggregate.store import CheckpointStore
from txninsightd.core.ledger import Ledger
from txninsightd.core.snapshot import VERSION, dump

HANG_GUARD_S = 60.0
NICE = os.nice(0)

Test = Callable[[Checkpoints], Coroutine[Any, Any, None]]


def a_core() -> Core:
    """One transaction that is open, and one that is over."""
    both = side_by_side(
        discover(1.0, A),
        sight(A, 3, ev(0, OPEN, 1, "open"), ev(1, OPEN, 2, "over"), ev(2, CLOSE, 3, "over"), as_of=100.0),
        cover(A, 0, 3, [0, 1, 2], 4.0, as_of=100.0),
    )
    return both.core


class Full(CheckpointStore):
    """A disk without room."""

    def write(self, chunks: Iterable[bytes]) -> int:
        """Fails as a full disk does."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class NotingStore(CheckpointStore):
    """Notes the nice values of its writers."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, VERSION)
        self._notes = directory / "nice"

    def write(self, chunks: Iterable[bytes]) -> int:
        """As the store does."""
        with self._notes.open("a") as notes:
            print(os.nice(0) - NICE, file=notes)
        return super().write(chunks)

    def nicer_by(self) -> list[int]:
        """Of each writer so far."""
        return [int(line) for line in self._notes.read_text().split()]


def run(store: CheckpointStore, test: Test, every_s: float = 3600.0) -> Checkpoints:
    """Run a test on a loop of its own, over checkpoints of a small ledger."""

    async def main() -> Checkpoints:
        loop, core = asyncio.get_running_loop(), a_core()
        checkpoints = Checkpoints(store, lambda: dump(core.pipeline), loop, loop.time, every_s)
        await asyncio.wait_for(test(checkpoints), HANG_GUARD_S)
        return checkpoints

    return asyncio.run(main())


def ask(checkpoints: Checkpoints) -> "asyncio.Future[OSError | None]":
    """Ask for a checkpoint; what comes of it."""
    answer: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
    checkpoints.request(answer.set_result)
    return answer


def writer_of(checkpoints: Checkpoints) -> int:
    """The process that writes."""
    assert checkpoints.writer_pid is not None
    return checkpoints.writer_pid


def resumed(directory: Path) -> Ledger:
    """What a later aggregator goes on with."""
    rules = a_core().rules
    store = CheckpointStore(directory, VERSION)
    return recover(store, lambda: Core(rules).pipeline, 200.0, lambda: None).pipeline.ledger


def test_what_was_asked_for_is_on_disk(tmp_path: Path) -> None:
    async def test(checkpoints: Checkpoints) -> None:
        assert await ask(checkpoints) is None

    health = run(CheckpointStore(tmp_path, VERSION), test).health
    assert (health.failures, health.fallbacks) == (0, 0)
    [path] = tmp_path.glob("checkpoint-*")
    assert health.bytes == path.stat().st_size
    assert resumed(tmp_path).live.keys() == a_core().live.keys()


def test_they_come_by_themselves(tmp_path: Path) -> None:
    async def test(checkpoints: Checkpoints) -> None:
        while checkpoints.health.written_at == 0.0:
            checkpoints.tick()
            await asyncio.sleep(0.005)
        first = checkpoints.health.written_at
        while checkpoints.health.written_at == first:
            checkpoints.tick()
            await asyncio.sleep(0.005)

    run(CheckpointStore(tmp_path, VERSION), test, every_s=0.01)


@pytest.mark.parametrize(("every_s", "nicer_by"), [(3600.0, NICER_BY), (0.0, 0)], ids=["in time", "late"])
def test_a_writer_is_nicer_if_nobody_waits_and_the_last_one_was_in_time(
    tmp_path: Path, every_s: float, nicer_by: int
) -> None:
    store = NotingStore(tmp_path)

    async def test(checkpoints: Checkpoints) -> None:
        assert await ask(checkpoints) is None
        written_at = checkpoints.health.written_at
        checkpoints.write_every(every_s)
        checkpoints.request()
        while checkpoints.health.written_at == written_at:
            await asyncio.sleep(0.005)

    run(store, test)
    assert store.nicer_by()[:2] == [0, nicer_by]


def test_one_that_was_begun_before_the_question_is_no_answer(tmp_path: Path) -> None:
    store = GatedStore(tmp_path)

    async def test(checkpoints: Checkpoints) -> None:
        first = ask(checkpoints)
        running = writer_of(checkpoints)
        second = ask(checkpoints)
        assert writer_of(checkpoints) == running
        store.open_gate()
        assert await first is None
        assert not second.done()
        assert await second is None

    run(store, test)
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2


def test_a_killed_writer_costs_one_checkpoint_and_the_next_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "RETRY_S", 0.0)
    store = GatedStore(tmp_path)

    async def test(checkpoints: Checkpoints) -> None:
        first = ask(checkpoints)
        os.kill(writer_of(checkpoints), signal.SIGKILL)
        second = ask(checkpoints)
        assert "killed" in str(await first)
        assert checkpoints.problem is not None
        store.open_gate()
        assert await second is None
        assert checkpoints.problem is None

    assert run(store, test).health.failures == 1


def test_a_writer_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LONGEST_WRITE_S", 0.0)

    async def test(checkpoints: Checkpoints) -> None:
        answer = ask(checkpoints)
        while not answer.done():
            checkpoints.tick()
            await asyncio.sleep(0.005)
        assert isinstance(answer.result(), OSError)

    run(GatedStore(tmp_path), test)


def test_a_full_disk_is_told_and_counted(tmp_path: Path) -> None:
    async def test(checkpoints: Checkpoints) -> None:
        failure = await ask(checkpoints)
        assert failure is not None
        assert failure.errno == errno.ENOSPC
        assert checkpoints.problem == "no checkpoint can be written: No space left on device"
        checkpoints.close()

    assert run(Full(tmp_path, VERSION), test).health.failures == 2


def test_without_a_free_descriptor_it_is_told_and_tried_again(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def test(checkpoints: Checkpoints) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            failed = ask(checkpoints)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        failure = await failed
        assert failure is not None
        assert failure.errno == errno.EMFILE
        assert checkpoints.problem == "no checkpoint can be written: Too many open files"
        assert await ask(checkpoints) is None
        assert checkpoints.problem is None

    with structlog.testing.capture_logs() as logged:
        assert run(CheckpointStore(tmp_path, VERSION), test).health.failures == 1
    (advice,) = (line["advice"] for line in logged if line["event"] == "checkpoint_failed")
    assert "LimitNOFILE=" in advice


def test_the_last_one_does_not_wait_for_a_writer_that_runs(tmp_path: Path) -> None:
    store = GatedStore(tmp_path)

    async def test(checkpoints: Checkpoints) -> None:
        answer = ask(checkpoints)
        running = writer_of(checkpoints)
        store.open_gate()
        os.kill(running, signal.SIGSTOP)
        checkpoints.close()
        assert not Path(f"/proc/{running}").exists()
        assert answer.result() is None

    health = run(store, test).health
    assert health.written_at > 0
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1


def test_the_writer_holds_nothing_of_its_parents(tmp_path: Path) -> None:
    """What waits for the end of a line, or for a free port, must not wait for the writer."""
    store = GatedStore(tmp_path)

    async def test(checkpoints: Checkpoints) -> None:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            answer = ask(checkpoints)
            pid = writer_of(checkpoints)
            while len(descriptors(pid)) > len({0, 1, 2, "its report", "its gate"}):
                await asyncio.sleep(0.005)
        store.open_gate()
        assert await answer is None

    run(store, test)


def descriptors(pid: int) -> list[Path]:
    """What a process has open."""
    return list(Path(f"/proc/{pid}/fd").iterdir())


def test_who_follows_is_told_of_each_checkpoint(tmp_path: Path) -> None:
    told: list[OSError | None] = []

    async def test(checkpoints: Checkpoints) -> None:
        checkpoints.on_begin = lambda: told.append
        assert await ask(checkpoints) is None
        assert await ask(checkpoints) is None

    run(CheckpointStore(tmp_path, VERSION), test)
    assert told == [None, None]

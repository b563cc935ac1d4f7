"""SIGHUP at the parent: the living aggregator is told, the ones that come later know, and the results are counted."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.harness.supervised import StartSupervised, Supervised
from txninsightd.supervise.control import read_memory_file, write_memory_file

pytestmark = pytest.mark.slow


def hang_up(parent: Supervised) -> None:
    parent.process.send_signal(signal.SIGHUP)


def reloads(parent: Supervised) -> list[object]:
    """Applied, refused, whether the last was good; as the aggregator was told last."""
    heard = parent.notes(what="children_status")
    return list(heard[-1]["reloads"]) if heard else []


def configs(parent: Supervised, process: str) -> list[str]:
    """The configs that a child had, one after the other."""
    return [note["config"] for note in parent.notes(process=process) if "config" in note]


def test_the_aggregator_gets_the_config_however_long_it_is(supervise: StartSupervised) -> None:
    parent = supervise("none").await_started()
    hang_up(parent)
    parent.await_that(lambda: bool(parent.notes(what="reloaded")))
    [note] = parent.notes(what="reloaded")
    assert (note["config"], note["bytes"]) == ("config 1", 300_000)
    parent.await_that(lambda: reloads(parent) == [1, 0, True])
    assert parent.stop() == 0


def test_a_refused_one_is_counted_and_not_sent(supervise: StartSupervised) -> None:
    parent = supervise("none").await_started()
    for i, result in enumerate(([1, 0, True], [2, 0, True], [2, 1, False], [3, 1, True])):
        hang_up(parent)
        parent.await_that(lambda result=result: reloads(parent) == result)
        assert len(parent.notes(what="reloaded")) == min(i + 1, 2) + (i == 3)
    assert [note["config"] for note in parent.notes(what="reloaded")] == ["config 1", "config 2", "config 4"]
    assert parent.stop() == 0


def test_an_aggregator_that_comes_later_knows_and_hears_the_counts(supervise: StartSupervised) -> None:
    parent = supervise("none").await_started()
    hang_up(parent)
    parent.await_that(lambda: reloads(parent) == [1, 0, True])
    parent.kill("aggregator")
    parent.await_started(times=2)
    assert [note["config"] for note in parent.notes(process="aggregator", what="started")] == ["config 0", "config 1"]
    parent.await_that(lambda: parent.notes(what="children_status")[-1]["pid"] == parent.pids()["aggregator"])
    assert reloads(parent) == [1, 0, True]
    assert len(parent.notes(what="reloaded")) == 1
    hang_up(parent)
    parent.await_that(lambda: reloads(parent) == [2, 0, True])
    assert parent.stop() == 0


def test_a_reload_while_the_aggregator_is_dead_reaches_the_next(supervise: StartSupervised) -> None:
    parent = supervise("none").await_started()
    parent.process.send_signal(signal.SIGSTOP)
    pid = parent.kill("aggregator")
    parent.await_that(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
    hang_up(parent)
    parent.process.send_signal(signal.SIGCONT)
    parent.await_started(times=2)
    parent.await_that(lambda: reloads(parent) == [1, 0, True])
    # It was forked after the reload, or was sent it.
    assert configs(parent, "aggregator")[-1] == "config 1"
    assert parent.stop() == 0


def test_that_a_reload_is_over_is_said_again_until_it_is_delivered(supervise: StartSupervised) -> None:
    parent = supervise("deaf-systemd").await_started()
    parent.await_that(lambda: "READY=1" in parent.told())
    before = len(parent.told())
    hang_up(parent)
    parent.await_that(lambda: "READY=1" in parent.told()[before:])
    news = [text.partition("\n")[0] for text in parent.told()[before:]]
    assert [text for text in news if text in ("RELOADING=1", "READY=1")] == ["RELOADING=1", "READY=1"]
    assert reloads(parent) == [1, 0, True]
    assert parent.stop() == 0


@pytest.mark.parametrize("size", [0, 5_000_000])
def test_a_memory_file_is_read_whole_and_closed(size: int) -> None:
    descriptor = write_memory_file(b"x" * size)
    inode = os.fstat(descriptor).st_ino
    assert inode in open_inodes()
    assert read_memory_file(descriptor) == b"x" * size
    assert inode not in open_inodes()


def open_inodes() -> set[int]:
    """Of all that this process has open. (A closed number may be in use again at once.)"""
    inodes = set()
    for name in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.fstat(int(name.name)).st_ino)
    return inodes

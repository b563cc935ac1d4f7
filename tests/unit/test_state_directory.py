"""The state directory is removed, moved or replaced while the daemon runs: no other daemon's state is overwritten."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.tmpfs import tmpfs
from txninsightd.aggregate.state_directory import DirectoryLock, DirectoryLost, StateUnusable
from txninsightd.aggregate.store import CheckpointStore

OURS, THEIRS = b"ours", b"theirs"


class Place:
    """A state directory behind a link, which can be pointed elsewhere in one step; locked, with one checkpoint."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "state"
        self.first = self.make("first")
        self.point_to(self.first)
        self.lock = DirectoryLock(self.path)
        self.lock.acquire()
        self.store = CheckpointStore(self.path, 1, lock=self.lock)
        self.write()

    def make(self, name: str) -> Path:
        """Another directory."""
        made = self.root / name
        made.mkdir()
        return made

    def point_to(self, directory: Path) -> None:
        """From now on the path names this one."""
        (self.root / "link").symlink_to(directory)
        (self.root / "link").replace(self.path)

    def write(self) -> None:
        """A checkpoint, as the aggregator writes it."""
        self.store.claim()
        self.store.write([OURS])

    def newest(self) -> bytes:
        """The newest checkpoint that the path names."""
        [chunk] = next(CheckpointStore(self.path, 1).read()).chunks
        return chunk


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.lock.release()


def is_free(directory: Path) -> bool:
    """Whether another daemon could start on it."""
    lock = DirectoryLock(directory)
    try:
        lock.acquire(patience_s=0.0)
    except StateUnusable:
        return False
    lock.release()
    return True


def test_one_that_is_removed_is_made_again_and_locked(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    lock = DirectoryLock(directory)
    lock.acquire()
    store = CheckpointStore(directory, 1, lock=lock)
    for remove in (shutil.rmtree, lambda path: path.rename(tmp_path / "moved")):
        remove(directory)
        store.claim()
        store.write([OURS])
        assert not is_free(directory)
        assert directory.stat().st_mode & 0o777 == 0o700
    lock.release()


def test_what_is_removed_inside_changes_nothing_for_the_next_daemon(place: Place) -> None:
    (place.first / "lock").unlink()
    place.write()
    assert not is_free(place.path)
    for path in place.first.iterdir():
        path.unlink()
    place.write()
    assert not is_free(place.path)
    assert place.newest() == OURS


def test_an_empty_one_in_its_place_is_taken(place: Place) -> None:
    place.point_to(place.make("second"))
    place.write()
    assert not is_free(place.path)
    assert place.newest() == OURS


def test_one_with_checkpoints_is_left_alone_until_the_former_is_back(place: Place) -> None:
    second = place.make("second")
    CheckpointStore(second, 1).write([THEIRS])
    place.point_to(second)
    with pytest.raises(DirectoryLost, match="was replaced by another one") as lost:
        place.write()
    assert "restart txninsightd" in lost.value.advice
    assert place.newest() == THEIRS
    assert is_free(place.path)
    place.point_to(place.first)
    place.write()
    assert place.newest() == OURS


def test_one_that_another_daemon_holds_is_left_alone(place: Place) -> None:
    place.point_to(place.make("second"))
    other = DirectoryLock(place.path)
    other.acquire()
    with pytest.raises(DirectoryLost) as lost:
        place.write()
    assert f"used by another txninsightd (pid {os.getpid()})" in lost.value.advice
    CheckpointStore(place.path, 1).write([THEIRS])
    other.release()
    with pytest.raises(DirectoryLost):
        place.write()
    assert place.newest() == THEIRS


def test_a_daemon_that_was_there_meanwhile_keeps_what_it_wrote(place: Place) -> None:
    """It met no lock file in our directory, wrote its checkpoint, and has ended."""
    (place.first / "lock").unlink()
    other = DirectoryLock(place.path)
    other.acquire()
    CheckpointStore(place.path, 1).write([THEIRS])
    other.release()
    with pytest.raises(DirectoryLost):
        place.write()
    assert place.newest() == THEIRS


def test_another_file_system_is_left_alone(place: Place) -> None:
    """The right one is not mounted."""
    with tmpfs(place.make("mounted"), "64k") as other:
        place.point_to(other.directory)
        with pytest.raises(DirectoryLost, match="was replaced"):
            place.write()
        assert list(other.directory.iterdir()) == []


def test_one_that_cannot_be_made_again_is_told_with_what_to_do(place: Place) -> None:
    shutil.rmtree(place.first)
    with pytest.raises(DirectoryLost, match="was removed or replaced while the daemon runs") as lost:
        place.write()
    assert lost.value.errno == errno.ESTALE
    assert "is a symbolic link to" in lost.value.advice


def test_one_that_is_replaced_during_the_write_gets_nothing(place: Place) -> None:
    second = place.make("second")

    def chunks() -> Iterator[bytes]:
        yield OURS
        place.point_to(second)

    with pytest.raises(FileNotFoundError):
        place.store.write(chunks())
    assert list(second.iterdir()) == []


def test_one_that_is_replaced_before_the_write_gets_nothing(place: Place) -> None:
    second = place.make("second")
    place.store.claim()
    place.point_to(second)
    with pytest.raises(DirectoryLost):
        place.store.write([OURS])
    assert list(second.iterdir()) == []

"""Checkpoint files on a disk that works, that is full, that refuses to be written; and which daemon may use it."""

import os
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.tmpfs import tmpfs
from txninsightd.aggregate.state_directory import DirectoryLock, StateUnusable
from txninsightd.aggregate.store import CheckpointStore

VERSION = 3
MEBIBYTE = 1 << 20
OTHER_USER = 65534
CHUNKS = [b"one", b"", b"\x00" * 5000, bytes(range(256))]

HOLDER = """
import os, sys
from pathlib import Path
from txninsightd.aggregate.state_directory import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
lock.acquire()
if not os.fork():
    print(os.getpid(), flush=True)
sys.stdin.read()
"""
"""Takes the lock and forks a child, which says its pid; both wait."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(directory: Path) -> CheckpointStore:
    return CheckpointStore(directory, VERSION, now=lambda: 1700000000.25)


@pytest.fixture
def shared_directory() -> Iterator[Path]:
    """One that every user can reach; what is done in it is done without root's privileges."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


class WithoutPrivileges:
    """Permission bits bind, even if the tests run as root."""

    def __enter__(self) -> None:
        self._user = os.geteuid()
        if self._user == 0:
            os.seteuid(OTHER_USER)

    def __exit__(self, *_: object) -> None:
        os.seteuid(self._user)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def newest(store: CheckpointStore) -> list[bytes]:
    return list(next(store.read()).chunks)


# --- Writing and reading ----------------------------------------------------------------------------------------------


def test_what_was_written_is_read(store: CheckpointStore, directory: Path) -> None:
    size_bytes = store.write(iter(CHUNKS))
    loaded = next(store.read())
    assert list(loaded.chunks) == CHUNKS
    assert (loaded.written_at, loaded.version, loaded.path) == (1700000000.25, VERSION, directory / names(directory)[0])
    assert size_bytes == loaded.path.stat().st_size
    assert store.damaged == []


def test_an_empty_directory_holds_none_and_one_without_chunks_is_one(store: CheckpointStore) -> None:
    assert list(store.read()) == []
    store.write([])
    assert newest(store) == []


def test_the_last_two_are_kept_under_rising_numbers_newest_first(store: CheckpointStore, directory: Path) -> None:
    for i in range(5):
        store.write([b"%d" % i])
        assert len(names(directory)) == min(i + 1, 2)
    assert [b"".join(loaded.chunks) for loaded in store.read()] == [b"4", b"3"]
    assert names(directory) == ["checkpoint-000000000004", "checkpoint-000000000005"]


def test_an_older_version_is_read_and_named(directory: Path) -> None:
    CheckpointStore(directory, VERSION - 1).write([b"old"])
    assert next(CheckpointStore(directory, VERSION).read()).version == VERSION - 1


def test_one_found_unusable_is_not_counted_among_the_good_ones(store: CheckpointStore, directory: Path) -> None:
    for i in range(3):
        store.write([b"%d" % i])
    reading = store.read()
    store.pass_over(next(reading).path, "cannot be decoded")
    assert list(next(reading).chunks) == [b"1"]
    assert store.damaged == ["checkpoint-000000000003 cannot be decoded"]
    store.write([b"next"])
    assert names(directory) == [f"checkpoint-{n:012d}" for n in (2, 3, 4)], "2 and 4 are the good ones"
    store.write([b"next"])
    assert names(directory) == [f"checkpoint-{n:012d}" for n in (4, 5)], "two good ones are newer than 3"


def test_the_only_good_one_goes_when_there_are_two_and_not_before(store: CheckpointStore, directory: Path) -> None:
    store.write([b"bad"])
    store.pass_over(next(store.read()).path, "cannot be decoded")
    store.write([b"good"])
    assert len(names(directory)) == 2
    store.write([b"good"])
    assert names(directory) == [f"checkpoint-{n:012d}" for n in (2, 3)]


def test_leftovers_of_killed_writers_go_and_what_is_not_ours_stays(store: CheckpointStore, directory: Path) -> None:
    for name in ("checkpoint-x81b.tmp", "exposed", "lock", "checkpoint-1", "checkpoint-000000000007.bak"):
        (directory / name).write_bytes(b"?")
    (directory / "checkpoint-000000000009").mkdir()
    store.write([b"a"])
    assert newest(store) == [b"a"]
    assert names(directory) == [
        *("checkpoint-000000000001", "checkpoint-000000000007.bak", "checkpoint-000000000009", "checkpoint-1"),
        *("exposed", "lock"),
    ]


def test_a_failing_source_leaves_nothing_behind(store: CheckpointStore, directory: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x" * MEBIBYTE
        raise KeyError("broken")

    store.write([b"good"])
    with pytest.raises(KeyError):
        store.write(chunks())
    assert names(directory) == ["checkpoint-000000000001"]
    assert newest(store) == [b"good"]


def test_neither_writing_nor_reading_holds_the_whole(store: CheckpointStore) -> None:
    tracemalloc.start()
    try:
        store.write(bytes([i]) * MEBIBYTE for i in range(64))
        total = sum(len(chunk) for chunk in next(store.read()).chunks)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 64 * MEBIBYTE
    assert peak_bytes < 8 * MEBIBYTE


def test_a_chunk_greater_than_what_is_read_at_a_time(store: CheckpointStore) -> None:
    chunk = os.urandom(3 * MEBIBYTE + 17)
    store.write([b"before", chunk, b"after"])
    assert newest(store) == [b"before", chunk, b"after"]


def test_the_file_is_durable_before_it_has_its_name_and_then_the_name_is(
    store: CheckpointStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, list[str], bytes]] = []
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path, names(directory), b"" if path == directory else path.read_bytes()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store.write([b"x" * MEBIBYTE, b"small"])
    (file, before, content), (last, after, _) = synced
    assert (before, after) == ([file.name], ["checkpoint-000000000001"])
    assert (file.suffix, last) == (".tmp", directory)
    assert content == (directory / "checkpoint-000000000001").read_bytes(), "nothing waits in a buffer"


# --- A disk that is full, a disk that refuses -------------------------------------------------------------------------


def test_a_full_disk_is_an_error_and_the_good_ones_stay(tmp_path: Path) -> None:
    with tmpfs(tmp_path, "256k") as small:
        store = CheckpointStore(small.directory, VERSION)
        for i in range(2):
            store.write([b"%d" % i * 50_000])
        before = names(small.directory)
        for chunk_bytes in (1000, 70_000, 2 * MEBIBYTE):
            with pytest.raises(OSError, match="No space left on device"):
                store.write(b"x" * chunk_bytes for _ in range(300))
            assert names(small.directory) == before
            assert [loaded.path.name for loaded in store.read()] == before[::-1]
        store.write([b"2" * 50_000])
        assert newest(store) == [b"2" * 50_000]


def fill(directory: Path) -> None:
    """Until there is room for no byte and no file."""
    with pytest.raises(OSError, match="No space left"):
        (directory / "ballast").write_bytes(b"x" * MEBIBYTE)
    with pytest.raises(OSError, match="No space left"):
        all((directory / f"ballast-{number}").touch() is None for number in range(MEBIBYTE))


def test_a_full_disk_keeps_no_daemon_from_starting_again(tmp_path: Path) -> None:
    with tmpfs(tmp_path, "64k") as small:
        lock = DirectoryLock(small.directory)
        lock.acquire()
        CheckpointStore(small.directory, VERSION).write([b"good"])
        lock.release()
        fill(small.directory)
        lock.acquire()
        store = CheckpointStore(small.directory, VERSION)
        assert newest(store) == [b"good"]
        with pytest.raises(OSError, match="No space left"):
            store.write([b"more"])
        lock.release()


def test_a_first_start_on_a_full_disk_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with tmpfs(tmp_path, "64k") as small:
        fill(small.directory)
        with pytest.raises(StateUnusable, match=r"No space left on device.*; free space on its file system; or set"):
            DirectoryLock(small.directory).acquire()
        with pytest.raises(StateUnusable, match="free space on its file system"):
            CheckpointStore(small.directory / "state", VERSION)


def test_a_file_system_that_turns_read_only_is_an_error_that_passes(tmp_path: Path) -> None:
    with tmpfs(tmp_path, "256k") as small:
        store = CheckpointStore(small.directory, VERSION)
        store.write([b"good"])
        small.make_read_only()
        with pytest.raises(OSError, match="Read-only file system"):
            store.write([b"never"])
        assert newest(store) == [b"good"]
        small.make_writable()
        store.write([b"better"])
        assert newest(store) == [b"better"]


def test_a_read_only_directory_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with tmpfs(tmp_path, "64k") as small:
        small.make_read_only()
        for use in (lambda: CheckpointStore(small.directory, VERSION), DirectoryLock(small.directory).acquire):
            with pytest.raises(StateUnusable, match=r"Read-only file system.*; mount its file system writable; or set"):
                use()


def test_a_directory_of_another_user_is_refused_with_what_to_do(shared_directory: Path) -> None:
    shared_directory.chmod(0o555)
    with WithoutPrivileges():
        for directory in (shared_directory, shared_directory / "new"):
            with pytest.raises(StateUnusable, match=r"Permission denied.*install -d -m 700 -o \d+ /tmp/.*; or set"):
                CheckpointStore(directory, VERSION)


def test_a_checkpoint_that_may_not_be_read_is_not_passed_over_in_silence(shared_directory: Path) -> None:
    CheckpointStore(shared_directory, VERSION).write([b"dear"])
    (path,) = shared_directory.iterdir()
    path.chmod(0o000)
    with WithoutPrivileges():
        store = CheckpointStore(shared_directory, VERSION)
        with pytest.raises(StateUnusable, match=rf"Permission denied \({path}\); .* chown -R \d+ {shared_directory}"):
            next(store.read())


def test_a_lock_file_of_another_user_is_refused_with_what_to_do(shared_directory: Path) -> None:
    (shared_directory / "lock").touch(mode=0o400)
    with WithoutPrivileges(), pytest.raises(StateUnusable, match=rf"\({shared_directory}/lock\); .* chown -R"):
        DirectoryLock(shared_directory).acquire()


def test_a_file_in_its_place_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    for directory in (tmp_path / "state", tmp_path / "state" / "below"):
        with pytest.raises(StateUnusable, match=r"a file is in its place; or set state\.directory") as refused:
            CheckpointStore(directory, VERSION)
        assert "remove" not in str(refused.value)


def test_a_directory_of_another_user_may_be_another_daemons(shared_directory: Path) -> None:
    own = shared_directory / "state"
    own.mkdir(mode=0o700)
    os.chown(own, 12345, 12345)
    expected = (
        "it belongs to user 12345: if another txninsightd runs as that user, leave it alone; if none does, create"
    )
    with WithoutPrivileges(), pytest.raises(StateUnusable, match=expected):
        DirectoryLock(own).acquire()


def test_a_link_of_another_unit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "txninsightd").symlink_to("private/txninsightd")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/txninsightd-two")
    for directory in (tmp_path / "txninsightd", tmp_path / "txninsightd" / "below"):
        with pytest.raises(StateUnusable, match="is a symbolic link to private/txninsightd, which") as refused:
            CheckpointStore(directory, VERSION)
        assert "this unit's own is /var/lib/txninsightd-two" in str(refused.value)
        assert "remove" not in str(refused.value)


def test_the_directory_is_created_for_its_owner_alone(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "lib" / "state", VERSION)
    store.write([b"private"])
    assert (tmp_path / "lib" / "state").stat().st_mode & 0o777 == 0o700
    assert next(store.read()).path.stat().st_mode & 0o777 == 0o600


def test_a_directory_that_was_there_is_taken_as_it_is(directory: Path) -> None:
    directory.mkdir(mode=0o750)
    CheckpointStore(directory, VERSION)
    assert directory.stat().st_mode & 0o777 == 0o750
    assert names(directory) == []


# --- The lock ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def holder(directory: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", HOLDER, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def child_of(holder: "subprocess.Popen[str]") -> int:
    assert holder.stdout is not None
    return int(holder.stdout.readline())


def test_the_second_is_told_which_process_has_it(directory: Path, holder: "subprocess.Popen[str]") -> None:
    child_of(holder)
    with pytest.raises(StateUnusable, match=rf"{directory} is used by another txninsightd \(pid {holder.pid}\); stop"):
        DirectoryLock(directory).acquire(patience_s=0)


def test_kill_9_frees_it_once_the_last_child_is_gone(directory: Path, holder: "subprocess.Popen[str]") -> None:
    child = child_of(holder)
    holder.kill()
    holder.wait()
    with pytest.raises(StateUnusable, match=rf"pid {holder.pid}\)"):
        DirectoryLock(directory).acquire(patience_s=0)
    with ThreadPoolExecutor(1) as beside:
        waiting = beside.submit(DirectoryLock(directory).acquire, patience_s=60)
        os.kill(child, signal.SIGKILL)
        waiting.result()


def test_two_locks_of_one_process_exclude_each_other_until_release(directory: Path) -> None:
    one, other = DirectoryLock(directory), DirectoryLock(directory)
    one.acquire()
    with pytest.raises(StateUnusable, match=rf"pid {os.getpid()}\)"):
        other.acquire(patience_s=0)
    one.release()
    other.acquire()
    other.release()
    other.release()


def test_a_child_that_ends_or_lets_go_leaves_the_parent_its_lock(directory: Path) -> None:
    lock = DirectoryLock(directory)
    lock.acquire()
    child = os.fork()
    if not child:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(StateUnusable):
        DirectoryLock(directory).acquire(patience_s=0)
    lock.release()


def test_whatever_stands_in_the_lock_file_it_is_a_lock(directory: Path) -> None:
    lock = DirectoryLock(directory)
    lock.acquire()
    (directory / "lock").write_bytes(b"")
    with pytest.raises(StateUnusable, match=r"\(pid unknown\)"):
        DirectoryLock(directory).acquire(patience_s=0)
    (directory / "lock").write_bytes(b"\xff\xfe" * 1000)
    with pytest.raises(StateUnusable, match="is used by another txninsightd"):
        DirectoryLock(directory).acquire(patience_s=0)
    lock.release()
    DirectoryLock(directory).acquire(patience_s=0)
    assert (directory / "lock").read_text() == f"{os.getpid()}\n"

"""The files in which checkpoints lie. They hold chunks of bytes; what these mean is not known here.

    <state.directory>/lock                       held by the one daemon that may use the directory
    <state.directory>/checkpoint-000000000042    the last two good ones; the greatest number is the newest
    <state.directory>/checkpoint-....tmp         being written, or left behind by a writer that was killed

A checkpoint is written to a temporary file, synced, renamed, and the directory synced: whatever dies at any moment, a
file with a checkpoint's name was whole when it got it. It begins with a header (magic, version, moment, number of
chunks, bytes that follow, CRC-32 over all of them and over the header itself); each chunk stands behind its length.
Neither writing nor checking holds more than one chunk in memory. CRC-32, since it finds torn, cut and decayed files at
2.3 GB/s and comes with Python (BLAKE2b: 0.9; xxHash: 15, but one dependency more to win 0.4 s a gigabyte). It is no
protection from somebody who may write in the directory, so nothing read from here may ever be unpickled or run.

Reading begins with the newest and passes over what is not sound, in words. Who finds a sound one unusable all the same
says so (`pass_over`) and takes the next:

    for loaded in store.read():
        try:
            return restore(loaded.chunks)
        except Undecodable as failure:
            store.pass_over(loaded.path, str(failure))
"""

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import BufferedReader, FileIO
from pathlib import Path
from struct import Struct
from tempfile import TemporaryFile, mkstemp
from typing import BinaryIO, NamedTuple
from zlib import crc32

from txninsightd import clock

KEPT = 2
NAME = re.compile(r"checkpoint-(\d{12,})")
PREFIX, SUFFIX = "checkpoint-", ".tmp"
MAGIC = b"txninsightd checkpoint 1\n"  # the number is that of this layout
# The fields of `Header`; big-endian, without padding.
HEADER = Struct(f">{len(MAGIC)}sIdQQ")
CHECKSUM = Struct(">I")
LENGTH = Struct(">Q")
HEAD_BYTES = HEADER.size + CHECKSUM.size
BLOCK_BYTES = 1 << 20
PATIENCE_S = 5.0
LOOK_EVERY_S = 0.05
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

ADVICE = {
    errno.EACCES: "create it, or make it the daemon's own: "
    "sudo install -d -m 700 -o {user} {directory} && sudo chown -R {user} {directory}",
    errno.EPERM: "make it the daemon's own: sudo chown -R {user} {directory}",
    errno.EROFS: "mount its file system writable",
    errno.ENOTDIR: "remove the file that stands in its place",
    errno.EEXIST: "remove the file that stands in its place",
    errno.ENOSPC: "make room on its file system",
    errno.EDQUOT: "raise the quota of user {user}",
}


class StateUnusable(Exception):
    """The state directory cannot be used; the text says why and what to do next."""


class Damaged(Exception):
    """Why a file is no checkpoint to go on from, in words that follow its name."""


class Header(NamedTuple):
    """What a checkpoint says of itself; `body_bytes`: the chunks and their lengths."""

    magic: bytes
    version: int
    written_at: float
    chunks: int
    body_bytes: int


class Loaded(NamedTuple):
    """A whole and sound checkpoint.

    `written_at`: epoch seconds, when its writing began. `chunks` are read as they are asked for, once, and before the
    next checkpoint is written; they raise OSError if the disk fails then. `version`: at most the store's.
    """

    path: Path
    written_at: float
    chunks: Iterator[bytes]
    version: int


class CheckpointStore:
    """The checkpoints of one directory, written as `version` and read up to it. One writer at a time (`DirectoryLock`).

    Creates the directory if need be. Raises StateUnusable when it cannot be read and written; a full disk is not that.
    """

    def __init__(self, directory: Path, version: int, now: Callable[[], float] = clock.now) -> None:
        self._directory = directory
        self._version = version
        self._now = now
        self._passed_over: dict[Path, str] = {}
        _make_usable(directory)

    @property
    def damaged(self) -> list[str]:
        """What was passed over, and why: a line of text each, newest checkpoint first."""
        return list(self._passed_over.values())

    def pass_over(self, path: Path, why: str) -> None:
        """Do not count this checkpoint among the good ones; `why` follows its name: "is ...", "cannot ..."."""
        self._passed_over[path] = f"{path.name} {why}"

    def read(self, on_progress: Callable[[], None] = lambda: None) -> Iterator[Loaded]:
        """The sound ones, newest first; the others are passed over. Raises StateUnusable when one may not be read.

        `on_progress` is called between the blocks that are checked, which may take long on a slow disk.
        """
        for number in sorted(self._numbers(), reverse=True):
            path = self._path(number)
            try:
                header = _check(path, self._version, on_progress)
            # Not passed over: it may be sound, and with other rights could be gone on from.
            except PermissionError as failure:
                raise _unusable(self._directory, failure) from failure
            except OSError as failure:
                self.pass_over(path, f"cannot be read: {failure.strerror}")
            except Damaged as why:
                self.pass_over(path, str(why))
            else:
                yield Loaded(path, header.written_at, _chunks(path, header), header.version)

    def write(self, chunks: Iterable[bytes]) -> int:
        """Write the next checkpoint, durably, and remove what is older than the last two good ones; gives its bytes.

        Raises OSError, and what `chunks` raises; the good ones are untouched then, and no temporary file is left.
        """
        written_at = self._now()
        self._remove_leftovers()
        # Above those that were passed over, too: the greatest number is the newest.
        path = self._path(max(self._numbers(), default=0) + 1)
        descriptor, temporary = mkstemp(SUFFIX, PREFIX, self._directory)
        try:
            with os.fdopen(descriptor, "wb", buffering=BLOCK_BYTES) as file:
                size_bytes = _fill(file, self._version, written_at, chunks)
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
        # Only now is the new name durable, and only then may an older one go.
        _sync_directory(self._directory)
        self._remove_old()
        return size_bytes

    def _path(self, number: int) -> Path:
        return self._directory / f"{PREFIX}{number:012d}"

    def _numbers(self) -> list[int]:
        with os.scandir(self._directory) as entries:
            matches = [NAME.fullmatch(entry.name) for entry in entries if entry.is_file()]
        return [int(match[1]) for match in matches if match]

    def _remove_leftovers(self) -> None:
        """The temporary files of writers that were killed."""
        for path in self._directory.glob(f"{PREFIX}*{SUFFIX}"):
            path.unlink(missing_ok=True)

    def _remove_old(self) -> None:
        """What was passed over stays to be looked at until two good ones are newer."""
        numbers = self._numbers()
        good = sorted(n for n in numbers if self._path(n) not in self._passed_over)
        for number in numbers:
            if len(good) >= KEPT and number < good[-KEPT]:
                self._path(number).unlink(missing_ok=True)


class DirectoryLock:
    """One daemon a directory. The lock dies with the last of the processes that took and inherited it.

    So a daemon that was killed has let go only when none of its children can write, or listen, any more.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = -1

    def acquire(self, patience_s: float = PATIENCE_S) -> None:
        """Take the lock; waits for those who are about to end. Raises StateUnusable where it cannot be had."""
        _make_usable(self._directory)
        try:
            # A lock of flock is the open file's: forked children share it; whatever they execute does not.
            descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as failure:
            raise _unusable(self._directory, failure) from failure
        # The children of a daemon that was killed go with it, but not at once.
        deadline = time.monotonic() + patience_s
        while not self._locked(descriptor):
            if time.monotonic() >= deadline:
                with os.fdopen(descriptor, errors="replace") as file:
                    raise _in_use(self._directory, file.read(20).strip())
            time.sleep(LOOK_EVERY_S)
        self._descriptor = descriptor
        _note_pid(descriptor)

    def _locked(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as failure:
            os.close(descriptor)
            raise _unusable(self._directory, failure) from failure
        return True

    def release(self) -> None:
        """Let go; others who inherited it still hold it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


# --- The directory ----------------------------------------------------------------------------------------------------


def _make_usable(directory: Path) -> None:
    """Create it if need be, and try to list it and to make a file in it. Raises StateUnusable."""
    try:
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_directory(directory.parent)
        # To list it, and to write in it, are different rights.
        next(directory.iterdir(), None)
        TemporaryFile(prefix=PREFIX, suffix=SUFFIX, dir=directory).close()
    except OSError as failure:
        # A full disk keeps nobody from going on with what is there.
        if failure.errno not in NO_ROOM or not directory.is_dir():
            raise _unusable(directory, failure) from failure


def _sync_directory(directory: Path) -> None:
    """Make the names in it durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(directory: Path, failure: OSError) -> StateUnusable:
    failed = Path(os.fsdecode(failure.filename)) if failure.filename else directory
    where = "" if failed == directory else f" ({failed})"
    advice = ADVICE.get(failure.errno or 0, "see to its file system").format(user=os.geteuid(), directory=directory)
    return StateUnusable(
        f"the state directory {directory} cannot be used: {failure.strerror}{where}; "
        f"{advice}; or set state.directory in the config to another one"
    )


def _in_use(directory: Path, holder: str) -> StateUnusable:
    return StateUnusable(
        f"the state directory {directory} is used by another txninsightd (pid {holder or 'unknown'}); "
        "stop that one, or set state.directory in this one's config to another directory"
    )


def _note_pid(descriptor: int) -> None:
    """For the message of who comes second; without room on the disk it goes without."""
    os.ftruncate(descriptor, 0)
    with suppress(OSError):
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


# --- One file ---------------------------------------------------------------------------------------------------------


def _fill(file: BinaryIO, version: int, written_at: float, chunks: Iterable[bytes]) -> int:
    """Write and sync one whole checkpoint; gives its bytes. The header comes last, since only then it is known."""
    # Zeros hold the header's place. Its checksum goes on from that of the body, not the other way round, since what it
    # says is known last.
    file.write(bytes(HEAD_BYTES))
    checksum = count = body_bytes = 0
    for chunk in chunks:
        length = LENGTH.pack(len(chunk))
        checksum = crc32(chunk, crc32(length, checksum))
        file.write(length)
        file.write(chunk)
        count += 1
        body_bytes += len(length) + len(chunk)
    header = HEADER.pack(*Header(MAGIC, version, written_at, count, body_bytes))
    file.seek(0)
    file.write(header + CHECKSUM.pack(crc32(header, checksum)))
    file.flush()
    os.fsync(file.fileno())
    return HEAD_BYTES + body_bytes


def _check(path: Path, newest_version: int, on_progress: Callable[[], None]) -> Header:
    """Read all of it once. Raises Damaged for what is not whole, not sound or too new, and OSError."""
    with BufferedReader(FileIO(path), BLOCK_BYTES) as file:
        head = file.read(HEAD_BYTES)
        header = _header(head, os.fstat(file.fileno()).st_size)
        checksum = _checksum(file, header, on_progress)
    if CHECKSUM.pack(crc32(head[: HEADER.size], checksum)) != head[HEADER.size :]:
        raise Damaged("is damaged: its checksum does not fit what it holds")
    # Only after the checksum: a flipped bit in the version is damage, not a newer txninsightd.
    if header.version > newest_version:
        raise Damaged(f"is too new: version {header.version}, and this txninsightd reads up to {newest_version}")
    return header


def _header(head: bytes, size_bytes: int) -> Header:
    if not head:
        raise Damaged("is empty")
    # As far as it goes: what ends within the first line is cut short, not foreign.
    if head[: len(MAGIC)] != MAGIC[: len(head)]:
        raise Damaged("is no checkpoint that this txninsightd can read: its first line is another")
    if len(head) < HEAD_BYTES:
        raise Damaged(f"is cut short: {len(head)} bytes")
    header = Header(*HEADER.unpack(head[: HEADER.size]))
    if size_bytes != HEAD_BYTES + header.body_bytes:
        cut = "cut short" if size_bytes < HEAD_BYTES + header.body_bytes else "damaged"
        raise Damaged(f"is {cut}: {size_bytes} bytes where its header says {HEAD_BYTES + header.body_bytes}")
    return header


def _checksum(file: "BufferedReader[FileIO]", header: Header, on_progress: Callable[[], None]) -> int:
    """Of the chunks and their lengths, block by block; what the header says is not believed yet."""
    # One buffer for all, so that no chunk is held whole.
    block = memoryview(bytearray(BLOCK_BYTES))
    checksum, left = 0, header.body_bytes
    for _ in range(header.chunks):
        length = file.read(LENGTH.size)
        # A length that is itself cut off makes `left` negative, just as one that is too large.
        chunk_left = LENGTH.unpack(length)[0] if len(length) == LENGTH.size else left
        left -= LENGTH.size + chunk_left
        if left < 0:
            raise Damaged("is damaged: a chunk in it does not end")
        checksum = crc32(length, checksum)
        while chunk_left:
            on_progress()
            part = block[: file.readinto(block[: min(chunk_left, BLOCK_BYTES)])]
            if not part:
                raise Damaged("is damaged: it ended while it was read")
            checksum = crc32(part, checksum)
            chunk_left -= len(part)
    if left:
        raise Damaged("is damaged: it holds more than its chunks")
    return checksum


def _chunks(path: Path, header: Header) -> Iterator[bytes]:
    with BufferedReader(FileIO(path), BLOCK_BYTES) as file:
        file.seek(HEAD_BYTES)
        # Nothing is checked any more: `_check` has read it all.
        for _ in range(header.chunks):
            yield file.read(*LENGTH.unpack(file.read(LENGTH.size)))

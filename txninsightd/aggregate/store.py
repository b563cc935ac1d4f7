"""Stores checkpoints in files. A checkpoint is a sequence of byte chunks; their content is not known here.

    <state.directory>/checkpoint-000000000042    the last two valid ones; the greatest number is the newest
    <state.directory>/checkpoint-....tmp         being written, or left behind by a killed writer

A checkpoint is written to a temporary file, synced, renamed, and the directory is synced. So a file with a checkpoint's
name was complete when it got the name, whatever died. It begins with a header: magic, version, time, number of chunks,
number of following bytes, and a CRC-32 over all of them and the header itself. Each chunk has its length in front.
Writing and checking hold at most one chunk in memory.

CRC-32 detects torn, truncated and decayed files at 2.3 GB/s and comes with Python (BLAKE2b: 0.9; xxHash: 15, but
another dependency to save 0.4 s per gigabyte). It does not protect from a user with write access to the directory. So
nothing read from here may be unpickled or executed.

Reading starts with the newest checkpoint and skips invalid ones, with a reason. A caller that cannot use a valid one
skips it too (`pass_over`) and takes the next:

    for loaded in store.read():
        try:
            return restore(loaded.chunks)
        except Undecodable as failure:
            store.pass_over(loaded.path, str(failure))
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import BufferedReader, FileIO
from pathlib import Path
from struct import Struct
from tempfile import mkstemp
from typing import BinaryIO, NamedTuple
from zlib import crc32

from txninsightd import clock
from txninsightd.aggregate.state_directory import (
    CHECKPOINT_NAME,
    PREFIX,
    SUFFIX,
    DirectoryLock,
    make_usable,
    sync_directory,
    unusable,
)

KEPT = 2
MAGIC = b"txninsightd checkpoint 1\n"  # the number is the version of this layout
# The fields of `Header`: big-endian, without padding.
HEADER = Struct(f">{len(MAGIC)}sIdQQ")
CHECKSUM = Struct(">I")
LENGTH = Struct(">Q")
HEAD_BYTES = HEADER.size + CHECKSUM.size
BLOCK_BYTES = 1 << 20


class Damaged(Exception):
    """Why a file is not a valid checkpoint; the text follows the file's name."""


class Header(NamedTuple):
    """A checkpoint's header. `body_bytes` counts the chunks and their lengths."""

    magic: bytes
    version: int
    written_at: float
    chunks: int
    body_bytes: int


class Loaded(NamedTuple):
    """A complete and valid checkpoint.

    `written_at`: epoch seconds at the start of its writing. `chunks` are read lazily and once. Read them before the
    next checkpoint is written; they raise OSError if the disk fails. `version` is at most the store's.
    """

    path: Path
    written_at: float
    chunks: Iterator[bytes]
    version: int


class CheckpointStore:
    """The checkpoints of one directory, written as `version` and read up to it. One writer at a time: `lock`.

    Creates the directory if needed. Raises StateUnusable when it cannot be read and written; a full disk is accepted.
    """

    def __init__(
        self,
        directory: Path,
        version: int,
        now: Callable[[], float] = clock.now,
        lock: DirectoryLock | None = None,
    ) -> None:
        self._directory = directory
        self._version = version
        self._now = now
        self._lock = lock
        self._passed_over: dict[Path, str] = {}
        make_usable(directory)

    @property
    def damaged(self) -> list[str]:
        """The skipped checkpoints with their reasons: one line of text each, newest first."""
        return list(self._passed_over.values())

    def pass_over(self, path: Path, why: str) -> None:
        """Count this checkpoint as invalid. `why` follows its name: "is ...", "cannot ..."."""
        self._passed_over[path] = f"{path.name} {why}"

    def read(self, on_progress: Callable[[], None] = lambda: None) -> Iterator[Loaded]:
        """The valid checkpoints, newest first; invalid ones are skipped. Raises StateUnusable when one may not be read.

        `on_progress` is called between the blocks of the check, which may take long on a slow disk.
        """
        for number in sorted(self._numbers(), reverse=True):
            path = self._path(number)
            try:
                header = _check(path, self._version, on_progress)
            # Do not skip it: it may be valid, and usable with other permissions.
            except PermissionError as failure:
                raise unusable(self._directory, failure) from failure
            except OSError as failure:
                self.pass_over(path, f"cannot be read: {failure.strerror}")
            except Damaged as why:
                self.pass_over(path, str(why))
            else:
                yield Loaded(path, header.written_at, _chunks(path, header), header.version)

    def claim(self) -> None:
        """Before a checkpoint: see `DirectoryLock.claim`. Raises DirectoryLost."""
        if self._lock is not None:
            self._lock.claim()

    def write(self, chunks: Iterable[bytes]) -> int:
        """Write the next checkpoint durably, and remove those older than the last two valid ones; returns its bytes.

        Raises OSError, and what `chunks` raises. Then the valid checkpoints are untouched, and no temporary file is
        left. The directory must be the locked one: the temporary file cannot be renamed into another one.
        """
        written_at = self._now()
        self._remove_leftovers()
        # Skipped ones count as well: the greatest number must be the newest.
        path = self._path(max(self._numbers(), default=0) + 1)
        descriptor, temporary = mkstemp(SUFFIX, PREFIX, self._directory)
        try:
            # Check after the file is there: the rename below fails if the directory is replaced after this.
            if self._lock is not None:
                self._lock.require()
            with os.fdopen(descriptor, "wb", buffering=BLOCK_BYTES) as file:
                size_bytes = _fill(file, self._version, written_at, chunks)
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
        # Make the new name durable before an older file is removed.
        sync_directory(self._directory)
        self._remove_old()
        return size_bytes

    def _path(self, number: int) -> Path:
        return self._directory / f"{PREFIX}{number:012d}"

    def _numbers(self) -> list[int]:
        with os.scandir(self._directory) as entries:
            matches = [CHECKPOINT_NAME.fullmatch(entry.name) for entry in entries if entry.is_file()]
        return [int(match[1]) for match in matches if match]

    def _remove_leftovers(self) -> None:
        """Remove the temporary files of killed writers."""
        for path in self._directory.glob(f"{PREFIX}*{SUFFIX}"):
            path.unlink(missing_ok=True)

    def _remove_old(self) -> None:
        """Skipped files stay for inspection until two valid ones are newer."""
        numbers = self._numbers()
        good = sorted(n for n in numbers if self._path(n) not in self._passed_over)
        for number in numbers:
            if len(good) >= KEPT and number < good[-KEPT]:
                self._path(number).unlink(missing_ok=True)


# --- One file ---------------------------------------------------------------------------------------------------------


def _fill(file: BinaryIO, version: int, written_at: float, chunks: Iterable[bytes]) -> int:
    """Write and sync one complete checkpoint; returns its bytes. The header comes last, when its fields are known."""
    # Zeros reserve the place of the header. The CRC covers the body first: the header's fields are known last.
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
    """Read and check the whole file. Raises OSError, and Damaged when it is incomplete, corrupt or too new."""
    with BufferedReader(FileIO(path), BLOCK_BYTES) as file:
        head = file.read(HEAD_BYTES)
        header = _header(head, os.fstat(file.fileno()).st_size)
        checksum = _checksum(file, header, on_progress)
    if CHECKSUM.pack(crc32(head[: HEADER.size], checksum)) != head[HEADER.size :]:
        raise Damaged("is damaged: its checksum does not match its content")
    # Check the version after the checksum: a flipped bit in it is damage, not a newer txninsightd.
    if header.version > newest_version:
        raise Damaged(f"is too new: version {header.version}, and this txninsightd reads up to {newest_version}")
    return header


def _header(head: bytes, size_bytes: int) -> Header:
    if not head:
        raise Damaged("is empty")
    # Compare only the present bytes: a file that ends within the first line is truncated, not foreign.
    if head[: len(MAGIC)] != MAGIC[: len(head)]:
        raise Damaged("is not a checkpoint that this txninsightd can read: its first line differs")
    if len(head) < HEAD_BYTES:
        raise Damaged(f"is cut short: {len(head)} bytes")
    header = Header(*HEADER.unpack(head[: HEADER.size]))
    if size_bytes != HEAD_BYTES + header.body_bytes:
        cut = "cut short" if size_bytes < HEAD_BYTES + header.body_bytes else "damaged"
        raise Damaged(f"is {cut}: {size_bytes} bytes where its header says {HEAD_BYTES + header.body_bytes}")
    return header


def _checksum(file: "BufferedReader[FileIO]", header: Header, on_progress: Callable[[], None]) -> int:
    """The CRC of the chunks and their lengths, block by block. The header is not trusted yet."""
    # One buffer for all blocks, so no chunk is held as a whole.
    block = memoryview(bytearray(BLOCK_BYTES))
    checksum, left = 0, header.body_bytes
    for _ in range(header.chunks):
        length = file.read(LENGTH.size)
        # A truncated length makes `left` negative, like one that is too large.
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
        # `_check` has verified the file.
        for _ in range(header.chunks):
            yield file.read(*LENGTH.unpack(file.read(LENGTH.size)))

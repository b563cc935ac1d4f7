"""Checkpoints cut, flipped, forged or interrupted: what is read is whole and sound, what is not is named."""

import os
import pickle
import random
import signal
import subprocess
import sys
from itertools import count, islice
from pathlib import Path
from types import FrameType
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txninsightd.aggregate import store as module
from txninsightd.aggregate.store import CHECKSUM, HEAD_BYTES, HEADER, LENGTH, MAGIC, CheckpointStore

VERSION = 3
OLD = [b"the older one", b"of two"]
NEW = [b"the newer one", b"", b"\x00" * 700, bytes(range(256)) * 4]

WRITER = """
import sys
from pathlib import Path
from txninsightd.aggregate.store import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]), 1)
number = int(sys.argv[2])

def chunks():
    for part in range(6):
        print("part", number, flush=True)
        yield number.to_bytes(8, "big") * 40_000

while True:
    store.write(chunks())
    print("done", number, flush=True)
    number += 1
"""
"""Writes one checkpoint after the other, each filled with its number, and tells how far it is."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two good checkpoints."""
    store = CheckpointStore(tmp_path, VERSION)
    store.write(OLD)
    store.write(NEW)
    return tmp_path


@pytest.fixture
def newer(directory: Path) -> Path:
    return max(directory.iterdir())


def read(directory: Path) -> tuple[list[list[bytes]], list[str]]:
    """The chunks of all sound ones, and what is said of the others."""
    store = CheckpointStore(directory, VERSION)
    return [list(loaded.chunks) for loaded in store.read()], store.damaged


def forged(chunks: int, body_bytes: int, body: bytes, version: int = VERSION) -> bytes:
    """A foreign file whose checksum fits, whatever the rest says."""
    header = HEADER.pack(MAGIC, version, 0.0, chunks, body_bytes)
    return header + CHECKSUM.pack(crc32(header, crc32(body))) + body


# --- Damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fiftieths", range(50))
def test_cut_short_anywhere_it_falls_back_to_the_older(directory: Path, newer: Path, fiftieths: int) -> None:
    whole = newer.read_bytes()
    newer.write_bytes(whole[: len(whole) * fiftieths // 50])
    sound, damaged = read(directory)
    assert sound == [OLD]
    assert damaged[0].startswith(f"{newer.name} is {'cut short: ' if fiftieths else 'empty'}")
    assert len(damaged) == 1


def test_a_flipped_bit_anywhere_is_found(directory: Path, newer: Path) -> None:
    whole = newer.read_bytes()
    refs = {*range(HEAD_BYTES + 64), *random.Random(5).sample(range(len(whole)), 300)}
    for ref in refs:
        for bit in (0, 7):
            flipped = bytearray(whole)
            flipped[ref] ^= 1 << bit
            newer.write_bytes(flipped)
            sound, damaged = read(directory)
            assert (sound, len(damaged)) == ([OLD], 1), (ref, bit)
    newer.write_bytes(whole)
    assert read(directory) == ([NEW, OLD], [])


def test_whole_regions_lost_or_swapped_are_found(directory: Path, newer: Path) -> None:
    whole = newer.read_bytes()
    rng = random.Random(6)
    for _ in range(100):
        begin, end = sorted(rng.sample(range(len(whole) + 1), 2))
        middle = whole[begin:end]
        for other in (bytes(len(middle)), middle[::-1], b"", middle * 2):
            broken = whole[:begin] + other + whole[end:]
            newer.write_bytes(broken)
            assert read(directory)[0] == ([NEW, OLD] if broken == whole else [OLD])


def test_bytes_behind_its_end_are_damage(directory: Path, newer: Path) -> None:
    with newer.open("ab") as file:
        file.write(b"\n")
    size = newer.stat().st_size
    assert read(directory) == ([OLD], [f"{newer.name} is damaged: {size} bytes where its header says {size - 1}"])


def test_too_new_is_passed_over_and_kept_until_two_good_ones_are_newer(directory: Path) -> None:
    CheckpointStore(directory, VERSION + 4).write([b"from the future"])
    store = CheckpointStore(directory, VERSION)
    assert list(next(store.read()).chunks) == NEW
    assert store.damaged == ["checkpoint-000000000003 is too new: version 7, and this txninsightd reads up to 3"]
    store.write([b"a"])
    assert {path.name[-1] for path in directory.iterdir()} == {"2", "3", "4"}
    store.write([b"b"])
    assert {path.name[-1] for path in directory.iterdir()} == {"4", "5"}


def test_all_damaged_leaves_none_and_names_all_newest_first(directory: Path) -> None:
    older, newer = sorted(directory.iterdir())
    older.write_bytes(b"")
    newer.write_bytes(newer.read_bytes()[:-1])
    sound, damaged = read(directory)
    assert sound == []
    assert [line.split(":")[0] for line in damaged] == [f"{newer.name} is cut short", f"{older.name} is empty"]


def test_read_again_it_says_the_same_once(directory: Path, newer: Path) -> None:
    newer.write_bytes(b"")
    store = CheckpointStore(directory, VERSION)
    for _ in range(2):
        assert len(list(store.read())) == 1
        assert store.damaged == [f"{newer.name} is empty"]


def test_what_the_disk_cannot_read_is_passed_over(
    directory: Path, newer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(module.FileIO):
        def readinto(self, buffer: Any) -> int:
            if str(self.name) == str(newer):
                raise OSError(5, "Input/output error")
            return super().readinto(buffer)  # type: ignore[return-value]

    monkeypatch.setattr(module, "FileIO", Broken)
    assert read(directory) == ([OLD], [f"{newer.name} cannot be read: Input/output error"])


# --- Forgery ----------------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickled, it would end the tests."""

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return os._exit, (99,)


FOREIGN = {
    "a pickle": pickle.dumps(Bomb()),
    "text": b"hello\n",
    "zeros": bytes(4096),
    "another layout": forged(0, 0, b"").replace(b"checkpoint 1\n", b"checkpoint 2\n"),
    "noise": random.Random(7).randbytes(5000),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files_are_passed_over(directory: Path, newer: Path, content: bytes) -> None:
    newer.write_bytes(content)
    says = f"{newer.name} is not a checkpoint that this txninsightd can read: its first line differs"
    assert read(directory) == ([OLD], [says])


LIES = {
    "a chunk longer than the file": (forged(1, 8, LENGTH.pack(1)), "a chunk in it does not end"),
    "a chunk longer than memory": (forged(1, 8, LENGTH.pack(2**64 - 1)), "a chunk in it does not end"),
    "more chunks than there are": (forged(2**64 - 1, 8, LENGTH.pack(0)), "a chunk in it does not end"),
    "half a length": (forged(1, 4, b"abcd"), "a chunk in it does not end"),
    "fewer chunks than there are": (forged(0, 8, LENGTH.pack(0)), "it holds more than its chunks"),
    "something behind the chunks": (forged(1, 9, LENGTH.pack(0) + b"x"), "it holds more than its chunks"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_with_a_checksum_that_fits_are_found(directory: Path, newer: Path, lie: str) -> None:
    content, says = LIES[lie]
    newer.write_bytes(content)
    assert read(directory) == ([OLD], [f"{newer.name} is damaged: {says}"])


def test_a_forged_one_that_does_not_lie_is_a_checkpoint(directory: Path, newer: Path) -> None:
    newer.write_bytes(forged(2, 19, LENGTH.pack(3) + b"abc" + LENGTH.pack(0)))
    assert read(directory) == ([[b"abc", b""], OLD], [])


NUMBERS = st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1))
BODIES = st.lists(st.one_of(st.binary(max_size=9), st.integers(0, 20).map(LENGTH.pack), NUMBERS.map(LENGTH.pack)))


@given(chunks=NUMBERS, body=BODIES.map(b"".join), size=st.none() | NUMBERS, version=st.integers(0, 5))
def test_no_forgery_gives_chunks_that_are_not_in_it(
    tmp_path_factory: pytest.TempPathFactory, chunks: int, body: bytes, size: int | None, version: int
) -> None:
    directory = tmp_path_factory.mktemp("forged", numbered=True)
    path = directory / "checkpoint-000000000001"
    path.write_bytes(forged(chunks, len(body) if size is None else size, body, version))
    sound, damaged = read(directory)
    assert len(sound) + len(damaged) == 1
    for found in sound:
        assert version <= VERSION
        assert (len(found), b"".join(LENGTH.pack(len(chunk)) + chunk for chunk in found)) == (chunks, body)


# --- Killed writers ---------------------------------------------------------------------------------------------------


def killed_at(line: int, directory: Path) -> bool:
    """Write in a child that kills itself before the `line`-th line of the store's code; False if it had fewer."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    store = CheckpointStore(directory, VERSION)
    lines = iter(range(line, 0, -1))

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line" and next(lines) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    store.write(NEW)
    os._exit(0)


def test_a_writer_killed_at_any_line_loses_nothing_and_leaves_nothing_for_long(tmp_path: Path) -> None:
    newest_seen = []
    for line in count(1):
        directory = tmp_path / str(line)
        store = CheckpointStore(directory, VERSION)
        for text in (b"1", b"2"):
            store.write([text])
        killed = killed_at(line, directory)
        sound, damaged = read(directory)
        assert sound in ([[b"2"], [b"1"]], [NEW, [b"2"], [b"1"]], [NEW, [b"2"]])
        assert damaged == []
        newest_seen.append(sound[0])
        store.write([b"after"])
        assert read(directory)[0] == [[b"after"], sound[0]]
        assert len(list(directory.iterdir())) == 2
        if not killed:
            break
    kept, renamed = newest_seen.count([b"2"]), newest_seen.count(NEW)
    assert newest_seen == [[b"2"]] * kept + [NEW] * renamed
    assert kept > 20, "it was killed before the rename"
    assert renamed > 10, "and after it"


def killed_after(lines: int, directory: Path, first: int) -> int:
    """Run a writer, kill it when it has told that many lines or more; gives the last number that it told was done."""
    command = [sys.executable, "-c", WRITER, str(directory), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = list(islice(writer.stdout, lines))
        assert len(told) == lines
        writer.kill()
        told += writer.stdout
    return max((int(line.split()[1]) for line in told if line.startswith("done")), default=first - 1)


def numbers_in(directory: Path) -> list[int]:
    """What fills the sound checkpoints, newest first."""
    store = CheckpointStore(directory, 1)
    contents = [b"".join(loaded.chunks) for loaded in store.read()]
    assert store.damaged == []
    assert all([len(content) == 6 * 40_000 * 8 and content == content[:8] * 240_000 for content in contents])
    return [int.from_bytes(content[:8], "big") for content in contents]


def test_a_writer_killed_from_outside_at_random_moments(tmp_path: Path) -> None:
    rng = random.Random(8)
    newest = interrupted = 0
    for _ in range(12):
        done = killed_after(rng.randrange(1, 60), tmp_path, newest + 1)
        numbers = numbers_in(tmp_path)
        newest = max(numbers, default=0)
        assert newest in (done, done + 1), "what was done is there; at most the one after it is there, too"
        assert numbers == [newest, newest - 1, newest - 2][: min(newest, len(numbers))]
        assert len(numbers) >= min(newest, 2)
        leftovers = len(list(tmp_path.glob("*.tmp")))
        assert leftovers <= 1, "each writer removes what the one before it left"
        interrupted += leftovers
    assert newest > 20
    assert interrupted > 0

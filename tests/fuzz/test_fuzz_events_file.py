"""events.jsonl: any line is understood or named as bad, and any file has a plan that the replayer can follow.

The lines are real ones, changed; between them stand lines that make no sense together (commits without begin, crashes,
records of transactional producers outside of their transactions). Files of others are what the replayer is for.
"""

import json
import math
from itertools import chain

import msgspec
import pytest
from hypothesis import strategies as st

from tests.harness.core.worlds import Chooser
from tests.harness.mutation import edited, mutated, some_edits
from tests.harness.properties import choosers, fuzz
from txninsightd.tools.events_file import BadLine, Control, Header, Line, PlainEvents, Record, parse_line, read_lines
from txninsightd.tools.replaying.plan import Survey, Timeline, TransactionTracker, TsPaths, rebase_start, survey
from txninsightd.tools.replaying.timestamps import epoch_s, first_time, shift_timestamps, shifted

LINES = [
    b'{"header": {"transaction_timeout_s": 30, "epoch": 175e7, "topics": {"a": {"partitions": 3, "ts_path": "m"}}}}',
    b'{"at": 0.5, "producer": "p1", "kafka": "begin"}',
    b'{"at": 1, "producer": "p1", "topic": "a", "key": "k", "value": {"ts": 1750000000.5}, "partition": 2, '
    b'"headers": {"h": "x"}}',
    b'{"at": 1, "producer": "p2", "topic": "b", "raw": "AP8=", "key": null}',
    b'{"at": 2, "producer": "p1", "kafka": "commit"}',
    b'{"at": 2, "producer": "p1", "kafka": "crash"}',
    b'{"event": "step_open", "txn_id": "t1", "ts": "2025-06-15T12:00:00.5+02:00", "m": {"t": 1750000000123}}',
    b'{"at": 3, "producer": "p2", "topic": "a", "value": null}',
    b"",
    b"null",
]
WORDS = [
    b"null",
    b"-1",
    b"1e400",
    b"1e308",
    b"NaN",
    b"9" * 400,
    b"1e17",
    b"99999999999",
    b"\xff",
    b"\\ud800",
    b'"begin"',
    b'"at":',
    b'"raw":"x"',
    b'"partition":2147483647',
    b'"ts":"9999-12-31T23:59:59.999999999Z"',
    b'"0001-01-01T00:00:00+14:00"',
    b"{",
    b"[" * 2000,
    b'{"m":' * 2000,
    b"\n",
    b"\x00",
    b'"key":{}',
    b'"ts":true',
    b'"9999-99-99T99:99:99Z"',
    b"\xef\xbb\xbf",
]
PLAINS = [PlainEvents(), PlainEvents("t"), PlainEvents("t", ("m.t", "ts", "", ".", "a..b"), "m.t")]
SHIFTS = (0, 1, -1, 86400 * 365, -(10**12), 10**15)
plains = st.sampled_from(PLAINS)


def follow(lines: list[bytes], plain: PlainEvents) -> Survey:
    """Read and survey these lines, and go through the plan as the replayer does."""
    read = list(read_lines(lines, plain))
    for _, line in read:
        holds(line)
    found = survey(read, TsPaths())
    bad = sum(isinstance(line, BadLine) for _, line in read)
    assert found.bad.count >= bad
    assert found.events + found.bad.count + sum(isinstance(line, Header) for _, line in read) == len(read)
    assert math.isfinite(found.epoch)
    assert json.dumps([found.bad.named, sorted(found.topics)])
    sequence = TransactionTracker()
    for _, line in read:
        if isinstance(line, Control):
            sequence.apply(line)
    if found.events > 0 and found.first_at <= found.last_at:
        due(found)
    return found


def due(found: Survey) -> None:
    for speed in (1.0, 1000.0, 0.001, math.inf):
        start, shift_s = rebase_start(1.75e9, found.first_at + found.epoch, found.last_at + found.epoch, speed)
        assert math.isfinite(start)
        assert isinstance(shift_s, int)
        timeline = Timeline(found.first_at, speed)
        assert timeline.offset(found.last_at) >= 0


def holds(line: Line | BadLine) -> None:
    if isinstance(line, BadLine):
        assert line.reason
    elif isinstance(line, Record):
        assert math.isfinite(line.at)
        assert line.at >= 0
        assert line.producer
        assert line.topic
        for text in (line.producer, line.topic, line.key or "", *chain(*(line.headers or {}).items())):
            text.encode()
        if line.payload is not None:
            shifts(line.payload)


def shifts(payload: bytes) -> None:
    """A shifted payload says the same with other times, and shifting back is possible."""
    paths = ("ts", "m.t")
    time = first_time(payload, paths)
    assert time is None or math.isfinite(time)
    for shift_s in SHIFTS:
        moved = shift_timestamps(payload, paths, shift_s)
        assert (moved == payload) or msgspec.json.decode(moved) is not None


@fuzz(300, 30_000, c=choosers(), which=st.sampled_from(LINES), plain=plains, header_allowed=st.booleans())
def test_changed_lines(c: Chooser, which: bytes, plain: PlainEvents, header_allowed: bool) -> None:
    holds(parse_line(mutated(c, which, LINES, WORDS), plain, header_allowed=header_allowed))


@fuzz(150, 15_000, c=choosers(), which=st.sampled_from(LINES[:8]), plain=plains)
def test_changed_values(c: Chooser, which: bytes, plain: PlainEvents) -> None:
    tree = {"line": json.loads(which)}
    changed = edited(tree, [edit for edit in some_edits(c, tree) if not isinstance(edit.what, bytes | dict)])
    follow([LINES[0], json.dumps(changed.get("line")).encode("utf-8", "surrogatepass"), *LINES], plain)


@fuzz(150, 15_000, lines=st.lists(st.sampled_from(LINES), max_size=12), changed=st.binary(max_size=30), plain=plains)
def test_lines_in_any_order(lines: list[bytes], changed: bytes, plain: PlainEvents) -> None:
    follow([*lines, changed, *lines], plain)


times = (
    st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.from_regex(r"\A\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,12})?([Zz]|[+-]\d\d:\d\d)\Z")
)


@fuzz(
    200,
    20_000,
    timestamp=times | st.none() | st.booleans() | st.lists(st.none(), max_size=1),
    shift_s=st.sampled_from(SHIFTS),
)
def test_any_timestamp(timestamp: object, shift_s: int) -> None:
    time = epoch_s(timestamp)
    assert time is None or math.isfinite(time)
    moved = shifted(timestamp, shift_s)
    assert moved is None or isinstance(moved, int | float | str)


DEEP = [b"[" * 100_000, b'{"value": ' * 100_000, b'{"at": 1, "producer": "p", "topic": "t", "value": ' + b"[" * 100_000]


@pytest.mark.parametrize(
    "line", [*DEEP, b'"' * 10**6, b'{"at": 1, "producer": "p", "topic": "t", "value": "' + b"x" * 10**6 + b'"}']
)
def test_large_and_deep_lines(line: bytes) -> None:
    follow([line, line + b"\n"], PLAINS[1])

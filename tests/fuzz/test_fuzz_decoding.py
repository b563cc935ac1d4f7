"""Records: any bytes under any mapping become an event or the name of what is wrong; nothing is raised.

`tests/core/test_decoding.py` tries the mappings that it names. Here mappings are made up, as the configuration allows
them, and records are real ones with bits flipped, cut, and spliced into each other.
"""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st

from tests.harness.core.core import Core
from tests.harness.core.worlds import Chooser
from tests.harness.mutation import mutated
from tests.harness.properties import choosers, fuzz
from txninsightd.core.decoding import LATEST_TS, MOST_ID_CHARS, Decoded, Decoder
from txninsightd.core.rules import Rules
from txninsightd.vocabulary import (
    KIND_WORDS,
    FromConst,
    FromHeader,
    FromKey,
    FromPath,
    Kind,
    Mapping,
    PartitionRef,
    RecordResult,
    Sightings,
    Thresholds,
)

MOST_BYTES = 4096
TOLERANCE_S = 60.0
NEITHER = (RecordResult.MALFORMED, RecordResult.FOREIGN, RecordResult.OVERSIZED)
HEADERS = [("order-id", b"o1"), ("order-id", None), ("other", b"\xff")]

RECORDS = [
    b'{"event": "transaction_open", "txn_id": "t1", "ts": 1750000000.5, "txn_type": "order"}',
    b'{"event":"step_open","txn_id":17,"ts":"2025-06-15T12:00:00.123456789+02:00","step":"pay","other":[1,{"a":null}]}',
    b'{"meta":{"what":"step_done","ids":{"order":"t1","step":"pay"},"at":1750000000123},"type":"order","x":1.5e3}',
    b'{"event": "transaction_close", "txn_id": "\\ud83d\\ude00", "ts": 1750000001, "status": "ok", "x": "\xc3\xa9"}',
    b'{"a":{"b":{"c":{"d":"OrderPlaced"}}},"b":"t2","txn_id":null,"ts":null}',
    b"null",
    b"[]",
]
WORDS = [
    b"null",
    b"true",
    b"-0",
    b"1e400",
    b"NaN",
    b"1" * 400,
    b"\xff",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\\u0000",
    b"{",
    b"[" * 900,
    b'"txn_id":',
    b'"transaction_open"',
    b'"ts":"0001-01-01T00:00:00+23:59",',
    b'"ts":"9999-12-31T23:59:60Z",',
    b'"ts":-1,',
    b'{"a":' * 300,
    b"\xef\xbb\xbf",
    b"\x00",
    b'"9' + b"9" * 30 + b'"',
]

names = st.sampled_from(
    ["event", "txn_id", "ts", "meta", "what", "ids", "order", "at", "type", "a", "b", "c", "d", "x", ""]
)
others = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters='"\\'), max_size=6)
paths = st.builds(FromPath, st.lists(names | others, min_size=1, max_size=4).map(tuple))
words = st.sampled_from([*KIND_WORDS, "OrderPlaced", "t1", "order"]) | st.text(max_size=8)
mappings = st.builds(
    Mapping,
    event=paths | st.builds(FromConst, st.sampled_from(list(KIND_WORDS))),
    txn_id=paths | st.just(FromKey()) | st.builds(FromHeader, st.sampled_from(["order-id", "other", "none"])),
    ts=paths,
    txn_type=paths | st.builds(FromConst, words),
    step=paths | st.builds(FromConst, words),
    status=paths | st.builds(FromConst, words),
    kinds=st.dictionaries(words, st.sampled_from(list(Kind)), max_size=3).map(lambda kinds: KIND_WORDS | kinds),
    ts_unit=st.sampled_from(["s", "ms"]),
)
record_timestamps = st.sampled_from([0.0, -0.001, 1_750_000_000.0, LATEST_TS, 2**63 / 1000]) | st.floats(-1, 9.3e15)
keys = st.none() | st.binary(max_size=6) | st.just(b"x" * (MOST_ID_CHARS + 1))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


def decoder_of(mapping: Mapping) -> Decoder | None:
    """None: the mapping reads one name both as a value and as an object, which the configuration refuses."""
    read = {m.names for m in msgspec.structs.astuple(mapping) if isinstance(m, FromPath)}
    if any(one != other and one == other[: len(one)] for one in read for other in read):
        with pytest.raises(ValueError, match="both as a value and as an object"):
            Decoder(mapping, MOST_BYTES, TOLERANCE_S)
        return None
    return Decoder(mapping, MOST_BYTES, TOLERANCE_S)


def holds(decoder: Decoder, value: bytes | None, key: bytes | None, headers: Any, record_ts: float) -> Decoded | None:
    """What holds of every result. Gives the event, if it is one."""
    result = decoder.decode(value, key, headers, record_ts)
    if not isinstance(result, Decoded):
        assert result in NEITHER
        return None
    assert decoder.decode(value, key, headers, record_ts) == result
    texts = (result.txn_id, result.signature.step, result.signature.txn_type, result.signature.status)
    assert result.txn_id
    assert all(text is None or len(text) <= MOST_ID_CHARS for text in texts)
    assert result.signature.kind in list(Kind)
    assert math.isfinite(result.ts)
    assert result.ts <= record_ts + TOLERANCE_S
    return result


@fuzz(200, 8000, mapping=mappings, value=json_values, key=keys, record_ts=record_timestamps)
def test_any_json_under_any_mapping(mapping: Mapping, value: Any, key: bytes | None, record_ts: float) -> None:
    decoder = decoder_of(mapping)
    if decoder is not None:
        holds(decoder, json.dumps(value).encode("utf-8", "surrogatepass"), key, HEADERS, record_ts)
        for record in RECORDS:
            holds(decoder, record, key, HEADERS[:1], record_ts)


KNOWN = [
    Decoder(mapping, MOST_BYTES, TOLERANCE_S)
    for mapping in (
        Mapping(),
        Mapping(txn_id=FromKey(), ts_unit="ms"),
        Mapping(txn_id=FromHeader("order-id"), event=FromConst("step_open")),
        Mapping(
            event=FromPath(("meta", "what")), txn_id=FromPath(("meta", "ids", "order")), ts=FromPath(("meta", "at"))
        ),
        Mapping(event=FromPath(("a", "b", "c", "d")), txn_id=FromPath(("b",)), kinds={"OrderPlaced": Kind.STEP_OPEN}),
    )
]
any_headers = st.none() | st.lists(
    st.tuples(st.text(max_size=8) | st.just("order-id"), st.none() | st.binary(max_size=8))
)


@fuzz(500, 12_000, c=choosers(), record=st.sampled_from(RECORDS), key=keys, headers=any_headers, at=record_timestamps)
def test_changed_bytes(c: Chooser, record: bytes, key: bytes | None, headers: Any, at: float) -> None:
    value = mutated(c, record, RECORDS, WORDS)
    for decoder in KNOWN:
        holds(decoder, value, key, headers, at)


@fuzz(60, 3000, c=choosers(), at=record_timestamps)
def test_what_is_decoded_can_be_sent_on_kept_and_shown(c: Chooser, at: float) -> None:
    """Up to the ledger and through a checkpoint: no event may be such that the daemon fails on it later."""
    events = [holds(KNOWN[0], mutated(c, record, RECORDS, WORDS), b"k", HEADERS[:1], at) for record in RECORDS * 2]
    decoded = [event for event in events if event is not None]
    message = Sightings(
        *("t", 0, len(decoded), at, at, at, [tuple(event.signature) for event in decoded], list(range(len(decoded)))),
        *([event.txn_id for event in decoded], list(range(len(decoded))), [event.ts for event in decoded]),
        *([at] * len(decoded), [], {"ok": len(decoded)}, len(decoded), 0.0),
    )
    core = empty_core()
    core.ledger.add_partition(PartitionRef("t", 0), 0)
    core.apply(msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Sightings))
    core.settle(at)
    again = empty_core()
    again.restore(core.chunks())
    assert again.live.keys() == core.live.keys() == {event.txn_id for event in decoded}


def empty_core() -> Core:
    rules = Rules(False, 60, 600, 60, 900, 86400, 100, 1000, Thresholds(), {})
    return Core(rules, most_labels=10)

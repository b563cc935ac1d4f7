"""Whatever bytes arrive, they become an event or the name of what is wrong with them; nothing is ever raised."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from txninsightd.core.decoding import LATEST_TS, MOST_ID_CHARS, MOST_LABEL_CHARS, Decoded, Decoder
from txninsightd.vocabulary import (
    KIND_WORDS,
    FromConst,
    FromHeader,
    FromKey,
    FromPath,
    Kind,
    Mapping,
    RecordResult,
    Signature,
)

RECORD_TS = 1_750_000_000.0
TOLERANCE_S = 60.0
MOST_BYTES = 4096

MAPPINGS = {
    "ours": Mapping(),
    "nested": Mapping(
        event=FromPath(("meta", "what")),
        txn_id=FromPath(("meta", "ids", "order")),
        ts=FromPath(("meta", "at")),
        txn_type=FromPath(("type",)),
        step=FromPath(("meta", "ids", "step")),
    ),
    "words": Mapping(kinds={**KIND_WORDS, "OrderPlaced": Kind.TRANSACTION_OPEN, "Shipped": Kind.TRANSACTION_CLOSE}),
    "constants": Mapping(
        event=FromConst("transaction_open"), txn_type=FromConst("order"), step=FromConst("ref"), ts_unit="ms"
    ),
    "key": Mapping(txn_id=FromKey(), ts_unit="ms"),
    "header": Mapping(txn_id=FromHeader("order-id")),
    "one field for all": Mapping(
        txn_id=FromPath(("x",)), ts=FromPath(("x",)), step=FromPath(("x",)), status=FromPath(("x",))
    ),
}
DECODERS = {name: Decoder(mapping, MOST_BYTES, TOLERANCE_S) for name, mapping in MAPPINGS.items()}
every_mapping = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS.keys())


def decode(decoder: Decoder, value: bytes | None, **more: Any) -> Decoded | RecordResult:
    """Decode, and check what holds of every result."""
    given_ = {"key": b"k1", "headers": [("order-id", b"o1")], "record_ts": RECORD_TS} | more
    result = decoder.decode(value, **given_)
    if isinstance(result, RecordResult):
        assert result in (RecordResult.MALFORMED, RecordResult.OVERSIZED, RecordResult.FOREIGN)
        return result
    signature = result.signature
    assert result.txn_id
    assert signature.kind in list(Kind)
    for text in (result.txn_id, signature.step, signature.txn_type, signature.status):
        assert text is None or (isinstance(text, str) and len(text) <= MOST_ID_CHARS)
        assert text is None or text.encode().decode() == text  # can be sent on, hashed and shown
    assert math.isfinite(result.ts)
    assert 0 <= result.ts <= max(LATEST_TS, given_["record_ts"])
    assert result.ts <= given_["record_ts"] + TOLERANCE_S
    return result


# --- Anything at all --------------------------------------------------------------------------------------------------

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from([*KIND_WORDS, "2025-06-15T12:00:00Z", "OrderPlaced"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
field_names = st.sampled_from(
    ["event", "txn_id", "ts", "txn_type", "step", "status", "meta", "what", "ids", "at", "order", "type", "x", "other"]
)
records = st.recursive(
    st.dictionaries(field_names, plain_values, max_size=6),
    lambda inner: st.dictionaries(field_names, inner | plain_values, max_size=6),
    max_leaves=4,
)
headers = st.none() | st.lists(st.tuples(st.sampled_from(["order-id", "other"]), st.none() | st.binary(max_size=4)))


@every_mapping
@settings(max_examples=40)
@given(value=st.none() | st.binary(max_size=60), key=st.none() | st.binary(max_size=4), headers=headers)
def test_any_bytes(decoder: Decoder, value: bytes | None, key: bytes | None, headers: Any) -> None:
    decode(decoder, value, key=key, headers=headers)


@every_mapping
@settings(max_examples=60)
@given(record=records, key=st.none() | st.binary(max_size=4), headers=headers)
def test_any_json(decoder: Decoder, record: Any, key: bytes | None, headers: Any) -> None:
    decode(decoder, json.dumps(record).encode(), key=key, headers=headers)


@every_mapping
@settings(max_examples=25)
@given(record=records, cut=st.integers(0, 200), noise=st.binary(max_size=2))
def test_any_broken_json(decoder: Decoder, record: Any, cut: int, noise: bytes) -> None:
    whole = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")
    decode(decoder, whole[:cut] + noise + whole[cut:])
    decode(decoder, whole[:cut])


def event(**fields: Any) -> bytes:
    """An event in our own words, as bytes; `raw_` fields are pasted in as they are."""
    given_ = {"event": "step_open", "txn_id": "t1", "ts": RECORD_TS} | fields
    parts = [
        f'"{name.removeprefix("raw_")}": {value if name.startswith("raw_") else json.dumps(value)}'
        for name, value in given_.items()
        if f"raw_{name}" not in given_
    ]
    return ("{" + ", ".join(parts) + "}").encode("utf-8", "surrogatepass")


OURS = DECODERS["ours"]
MALFORMED, FOREIGN, OVERSIZED = RecordResult.MALFORMED, RecordResult.FOREIGN, RecordResult.OVERSIZED
NAMED = [
    ("a tombstone", None, FOREIGN),
    ("no bytes", b"", MALFORMED),
    ("no JSON", b"hello", MALFORMED),
    ("not UTF-8", b'{"event": "step_open", "txn_id": "\xff"}', MALFORMED),
    ("a list", b"[1]", MALFORMED),
    ("a number", b"1", MALFORMED),
    ("null", b"null", MALFORMED),
    ("an empty object", b"{}", FOREIGN),
    ("two objects", event() + event(), MALFORMED),
    ("another kind", event(event="user_login"), FOREIGN),
    ("a kind in other letters", event(event="STEP_OPEN"), FOREIGN),
    ("a kind that is no word", event(event=["step_open"]), MALFORMED),
    ("no txn_id", event(raw_txn_id="null"), MALFORMED),
    ("an empty txn_id", event(txn_id=""), MALFORMED),
    ("a txn_id that is a fraction", event(txn_id=1.5), MALFORMED),
    ("a txn_id that is true", event(raw_txn_id="true"), MALFORMED),
    ("a long txn_id", event(txn_id="x" * (MOST_ID_CHARS + 1)), MALFORMED),
    ("a long step", event(step="x" * (MOST_LABEL_CHARS + 1)), MALFORMED),
    ("a txn_id of very many digits", event(raw_txn_id="1" * (MOST_ID_CHARS + 1)), MALFORMED),
    ("a lone surrogate, escaped", event(raw_txn_id=r'"\ud800"'), MALFORMED),
    ("a lone surrogate, in bytes", event(raw_txn_id='"\ud800"'), MALFORMED),
    ("a ts before the epoch", event(ts=-1), MALFORMED),
    ("a ts in milliseconds", event(ts=RECORD_TS * 1000), MALFORMED),
    ("a ts that is no number", event(raw_ts="NaN"), MALFORMED),
    ("a ts without end", event(raw_ts="Infinity"), MALFORMED),
    ("a ts beyond floats", event(raw_ts="1e400"), MALFORMED),
    ("a ts of very many digits", event(raw_ts="1" + "0" * 400), MALFORMED),
    ("a ts that is true", event(raw_ts="true"), MALFORMED),
    ("a ts in words", event(ts="yesterday"), MALFORMED),
    ("a ts without its zone", event(ts="2025-06-15T12:00:00"), MALFORMED),
    ("a day", event(ts="2025-06-15"), MALFORMED),
    ("an empty ts", event(ts=""), MALFORMED),
    ("an RFC 3339 ts before the epoch", event(ts="1969-12-31T23:59:59Z"), MALFORMED),
    ("the first moment of all", event(ts="0001-01-01T00:00:00+23:59"), MALFORMED),
    ("nested without end", b"[" * 4000, MALFORMED),
    ("too large by a byte", event(other="x" * MOST_BYTES), OVERSIZED),
    ("too large, and nonsense", b"x" * (MOST_BYTES + 1), OVERSIZED),
]


@pytest.mark.parametrize(("value", "named"), [case[1:] for case in NAMED], ids=[case[0] for case in NAMED])
def test_what_is_wrong_is_named(value: bytes | None, named: RecordResult) -> None:
    assert decode(OURS, value) is named


@pytest.mark.parametrize("depth", [600, 1500, 100_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_depth_is_read_or_malformed_but_never_raised(depth: int, brackets: str) -> None:
    # How deep is too deep depends on the interpreter.
    decoder = Decoder(Mapping(), 10**6, TOLERANCE_S)
    begin, end = ("[", "]") if brackets == "[]" else ('{"a":', "}")
    deep = begin * depth + "1" + end * depth
    assert decode(decoder, deep.encode()) in (MALFORMED, FOREIGN)
    result = decode(decoder, event(raw_other=deep))
    assert isinstance(result, Decoded) or result is MALFORMED
    assert decode(decoder, event(raw_step=deep)) is MALFORMED


def test_the_largest_allowed_record_is_read() -> None:
    padding = "x" * (MOST_BYTES - len(event(other="")))
    assert len(event(other=padding)) == MOST_BYTES
    assert isinstance(decode(OURS, event(other=padding)), Decoded)


# --- What can be read -------------------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=20)
some_text = st.none() | texts


@given(
    word=st.sampled_from(list(KIND_WORDS)),
    txn_id=texts.filter(bool) | st.integers(-(10**30), 10**30),
    ts=st.none() | st.floats(0, RECORD_TS + TOLERANCE_S) | st.integers(0, int(RECORD_TS)),
    texts=st.tuples(some_text, some_text, some_text),
    kept_time=st.booleans(),
)
@example(word="transaction_close", txn_id=7, ts=0, texts=("", None, "\x00"), kept_time=True)
def test_an_event_in_our_own_words(word: str, txn_id: Any, ts: Any, texts: Any, kept_time: bool) -> None:
    txn_type, step, status = texts
    record = {"event": word, "txn_id": txn_id, "ts": ts, "txn_type": txn_type, "step": step, "status": status}
    signature = Signature(int(KIND_WORDS[word]), step, txn_type, status, False, kept_time)
    expected = Decoded(str(txn_id), signature, RECORD_TS if ts is None else float(ts))
    assert decode(OURS, json.dumps(record).encode(), kept_time=kept_time) == expected
    sparse = {name: value for name, value in record.items() if value is not None}
    assert decode(OURS, json.dumps(sparse).encode(), kept_time=kept_time) == expected


@given(
    moment=st.datetimes(datetime(1970, 1, 2), datetime(2025, 6, 14)),
    minutes=st.integers(-14 * 60, 14 * 60),
)
def test_rfc_3339_in_any_zone(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    if aware < datetime(1970, 1, 1, tzinfo=UTC):
        return
    result = decode(OURS, event(ts=aware.isoformat()))
    assert isinstance(result, Decoded)
    assert result.ts == aware.timestamp()
    zulu = aware.astimezone(UTC).isoformat().replace("+00:00", "Z")
    assert decode(OURS, event(ts=zulu)) == result


@pytest.mark.parametrize(
    ("ts", "future", "told"),
    [
        (RECORD_TS + TOLERANCE_S, False, RECORD_TS + TOLERANCE_S),
        (RECORD_TS + TOLERANCE_S + 1, True, RECORD_TS),
        (RECORD_TS - 10**6, False, RECORD_TS - 10**6),
    ],
)
def test_an_event_from_the_future_is_clamped_to_its_record(ts: float, future: bool, told: float) -> None:
    result = decode(OURS, event(ts=ts))
    assert isinstance(result, Decoded)
    assert (result.signature.future, result.ts) == (future, told)


def test_nested_fields_and_constants() -> None:
    record = {"meta": {"what": "step_done", "ids": {"order": 17, "step": "pay"}, "at": 12.5}, "type": "order"}
    result = decode(DECODERS["nested"], json.dumps(record).encode())
    assert result == Decoded("17", Signature(int(Kind.STEP_DONE), "pay", "order", None, False, False), 12.5)
    result = decode(DECODERS["constants"], b'{"txn_id": "t", "ts": 12500, "event": "ignored", "step": 3.5}')
    assert result == Decoded("t", Signature(int(Kind.TRANSACTION_OPEN), "ref", "order", None, False, False), 12.5)


def test_a_missing_branch_reads_as_nothing() -> None:
    assert decode(DECODERS["nested"], b'{"type": "order"}') is FOREIGN
    assert decode(DECODERS["nested"], b'{"meta": {"what": "step_done"}}') is MALFORMED
    assert decode(DECODERS["nested"], b'{"meta": null}') in (FOREIGN, MALFORMED)
    assert decode(DECODERS["nested"], b'{"meta": [1]}') is MALFORMED


def test_other_words_come_on_top_of_ours() -> None:
    for word, kind in {"OrderPlaced": Kind.TRANSACTION_OPEN, "Shipped": Kind.TRANSACTION_CLOSE, **KIND_WORDS}.items():
        result = decode(DECODERS["words"], event(event=word))
        assert isinstance(result, Decoded)
        assert result.signature.kind == kind
    assert decode(OURS, event(event="OrderPlaced")) is FOREIGN


KEYS = [(b"k1", "k1"), ("ä".encode(), "ä"), (None, None), (b"", None), (b"\xff", None), (b"x" * 2000, None)]


@pytest.mark.parametrize(("found", "txn_id"), KEYS)
def test_txn_id_from_key_or_header(found: bytes | None, txn_id: str | None) -> None:
    value = b'{"event": "step_open", "txn_id": "not this"}'
    results = [
        decode(DECODERS["key"], value, key=found, headers=None),
        decode(DECODERS["header"], value, key=b"k", headers=[("other", b"z"), ("order-id", found)]),
    ]
    for result in results:
        assert (result.txn_id if isinstance(result, Decoded) else None) == txn_id
        assert isinstance(result, Decoded) or result is MALFORMED


def test_the_last_header_of_a_name_counts_and_none_is_malformed() -> None:
    value = b'{"event": "step_open"}'
    both = [("order-id", b"first"), ("order-id", b"last"), ("order-id", None)]
    result = decode(DECODERS["header"], value, headers=both)
    assert isinstance(result, Decoded)
    assert result.txn_id == "last"
    assert decode(DECODERS["header"], value, headers=None) is MALFORMED
    assert decode(DECODERS["header"], value, headers=[]) is MALFORMED


def test_a_mapping_that_reads_a_field_both_ways_is_refused() -> None:
    for event_path, ts_path in ((("a",), ("a", "b")), (("a", "b"), ("a",))):
        with pytest.raises(ValueError, match="`a` both as a value and as an object"):
            Decoder(Mapping(event=FromPath(event_path), ts=FromPath(ts_path)), MOST_BYTES, TOLERANCE_S)

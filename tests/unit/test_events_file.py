"""Lines of events.jsonl: what each becomes, and what is said of a bad one. The JSON Schema says the same."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from txninsightd.tools import events_file
from txninsightd.tools.events_file import (
    PLAIN_PRODUCER,
    Action,
    BadLine,
    Control,
    Header,
    PlainEvents,
    Record,
    TopicFacts,
    parse_line,
    read_lines,
)

SCHEMA = json.loads(Path(events_file.__file__).with_name("events.schema.json").read_text())
PLAIN = PlainEvents(topic="plain")


def parse(text: str | bytes, plain: PlainEvents = PLAIN) -> object:
    return parse_line(text if isinstance(text, bytes) else text.encode(), plain, header_allowed=True)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"at": 1, "producer": "p", "topic": "t"}', Record(1.0, "p", "t")),
        (
            '{"at": 1.5, "producer": "p", "topic": "t", "key": "k", "value": {"a": [1,  2]}, "partition": 2}',
            Record(1.5, "p", "t", "k", b'{"a": [1,  2]}', None, 2),
        ),
        ('{"at": 1, "producer": "p", "topic": "t", "key": null, "value": null}', Record(1.0, "p", "t")),
        (
            '{"at": 1, "producer": "p", "topic": "t", "raw": "//4=", "headers": {"a": "b"}}',
            Record(1.0, "p", "t", None, b"\xff\xfe", {"a": "b"}, None, holds_json=False),
        ),
        ('{"at": 1, "producer": "p", "topic": "t", "raw": ""}', Record(1.0, "p", "t", payload=b"", holds_json=False)),
        ('{"at": 1, "producer": "p", "kafka": "begin"}', Control(1.0, "p", Action.BEGIN)),
        ('{"at": 0, "producer": "p", "kafka": "crash"}', Control(0.0, "p", Action.CRASH)),
        (
            '{"header": {"transaction_timeout_s": 5, "seed": 3, "topics": {"t": {"partitions": 4, "ts_path": "a.b"}}}}',
            Header(transaction_timeout_s=5.0, topics={"t": TopicFacts(4, "a.b")}),
        ),
    ],
)
def test_a_line_becomes(text: str, line: object) -> None:
    assert parse(text) == line


@pytest.mark.parametrize(
    ("text", "at", "key"),
    [
        ('{"event": "step_open", "txn_id": "x", "ts": 17.5}', 17.5, "x"),
        ('{"event": "step_open", "txn_id": 12, "ts": 1750000000123}', 1750000000.123, "12"),
        ('{"txn_id": "x", "ts": "2025-06-15T15:06:40.5Z"}', 1750000000.5, "x"),
        ('{"ts": "2025-06-15T17:06:40+02:00", "at": "noon"}', 1750000000.0, None),
        ('{"ts": 3, "topic": "not ours"}', 3.0, None),
    ],
)
def test_a_plain_event_is_published_as_it_stands(text: str, at: float, key: str | None) -> None:
    assert parse(text + "\n") == Record(at, PLAIN_PRODUCER, "plain", key, text.encode())


def test_other_names_for_time_and_key() -> None:
    plain = PlainEvents("t", ("nowhere", "meta.when"), "meta.id")
    text = '{"meta": {"when": 5, "id": "x"}}'
    assert parse(text, plain) == Record(5.0, PLAIN_PRODUCER, "t", "x", text.encode())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        (b'{"at": 1, "producer": "\xff"}', "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"at": 1, "producer": "p"}', "neither `topic`"),
        ('{"at": 1, "topic": "t"}', "missing required field `producer`"),
        ('{"at": "1", "producer": "p", "topic": "t"}', "Expected `float`, got `str` - at `$.at`"),
        ('{"at": -1, "producer": "p", "topic": "t"}', "$.at"),
        ('{"at": 1e999, "producer": "p", "topic": "t"}', "out of range"),
        ('{"at": 1, "producer": "p", "topic": "t", "vlaue": {}}', "unknown field `vlaue`"),
        ('{"at": 1, "producer": "p", "topic": "t", "value": {}, "raw": ""}', "both `value` and `raw`"),
        ('{"at": 1, "producer": "p", "topic": "t", "raw": "%%"}', "`raw` is not base64"),
        ('{"at": 1, "producer": "p", "topic": "t", "partition": -1}', "$.partition"),
        ('{"at": 1, "producer": "p", "kafka": "comit"}', "'comit' - at `$.kafka`"),
        ('{"at": 1, "producer": "p", "kafka": "begin", "key": "k"}', "a control line has"),
        ('{"producer": "p", "kafka": "begin"}', "no time: a record or control line needs `at`"),
        ('{"event": "step_open", "ts": true}', "no time"),
        ('{"event": "step_open", "ts": "yesterday"}', "no time"),
        ('{"event": "step_open", "ts": "2025-02-30T00:00:00Z"}', "no time"),
        ('{"header": {"transaction_timeout_s": 0}}', "header: Expected `float` >= 1"),
        ('{"at": 1, "producer": "p", "topic": "t", "value": ' + "[" * 100_000 + "}", "nested too deeply"),
        ('{"deep": ' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_line_says_why(text: str | bytes, says: str) -> None:
    line = parse(text)
    assert isinstance(line, BadLine)
    assert says in line.reason


def test_a_plain_event_without_a_topic_names_the_option() -> None:
    line = parse('{"ts": 1}', PlainEvents())
    assert isinstance(line, BadLine)
    assert "--topic" in line.reason


def test_lines_are_numbered_as_an_editor_numbers_them() -> None:
    lines = [
        b"\n",
        b'{"header": {}}\n',
        b"  \n",
        b"oops\n",
        b'{"header": {}}\n',
        b'{"at":1,"producer":"p","kafka":"begin"}',
    ]
    found = list(read_lines(lines, PLAIN))
    assert [number for number, _ in found] == [2, 4, 5, 6]
    assert [type(line) for _, line in found] == [Header, BadLine, BadLine, Control]


good_or_bad: dict[str, st.SearchStrategy[Any]] = {
    "at": st.sampled_from([0, 1.5, 1750000000, -1, "1", None, True]),
    "producer": st.sampled_from(["p", "p", "", 1, None]),
    "topic": st.sampled_from(["t", "t", "", None]),
    "kafka": st.sampled_from([*Action, "end", None]),
    "key": st.sampled_from(["k", "", None, 1]),
    "headers": st.sampled_from([{}, {"a": "b"}, {"a": 1}, None]),
    "value": st.sampled_from([{}, {"a": 1}, None, [], "text"]),
    "raw": st.sampled_from(["", "AAAA", "AA==", "A", "ä", None]),
    "partition": st.sampled_from([0, 7, 2**31, -1, "0", None]),
    "header": st.sampled_from(
        [{}, {"transaction_timeout_s": 0.5}, {"epoch": 1, "x": 2}, {"epoch": "x"}, {"topics": 1}]
    ),
    "surplus": st.just(1),
}
mostly_records = st.fixed_dictionaries(
    {name: good_or_bad[name] for name in ("at", "producer")},
    optional={name: each for name, each in good_or_bad.items() if name not in ("at", "producer", "surplus", "header")},
)
anything = st.fixed_dictionaries({}, optional=good_or_bad)


@given(st.one_of(mostly_records, anything))
def test_the_schema_takes_what_the_reader_takes(line: dict[str, Any]) -> None:
    """But for the time of a plain event: where it stands is an option, which no schema knows."""
    found = parse(json.dumps(line), PlainEvents("plain", ("surplus",)))
    taken = not isinstance(found, BadLine) or found.reason.startswith("no time")
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(line) == taken


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)

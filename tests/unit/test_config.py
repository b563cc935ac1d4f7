"""The config file: every fault by its exact line and key, secrets that stay secret, and nothing but ConfigError.

The file that ships and the examples of the guide are loaded here too, so that neither can drift from the code.
"""

import json
import os
import pickle
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.harness.json_schema import keys_of, nodes_of
from tests.harness.paths import ROOT
from txninsightd.config import (
    Config,
    ConfigError,
    Secret,
    Start,
    Topic,
    check_config,
    load_config,
    load_state_directory,
)
from txninsightd.config import reading as config_reading
from txninsightd.config.checking import schema
from txninsightd.config.model import KafkaConfig
from txninsightd.vocabulary import FromConst, FromHeader, FromKey, FromPath, Kind, Objective, Thresholds
from txninsightd.vocabulary import Mapping as EventMapping

SHIPPED = ROOT / "conf" / "txninsight.yaml"
GUIDE = ROOT / "docs" / "configuration.md"
SECONDS = "a number, greater than 0 and at most 315360000"
TOPIC_NAME = "a topic name of 1 to 249 letters, digits, '.', '_' or '-'"
TOPIC = f"{TOPIC_NAME}, or {{name: ...}}, or {{pattern: REGEX}}"
KINDS = "one of transaction_open, step_open, step_done, transaction_close"
START = "earliest, latest, or a duration of at most ten years such as 90s, 15m, 2h or 7d"
ALLOWED = "a host name without a port, .NAME for it and all names below it, or '*' for any"
LISTEN = "HOST:PORT or [IPV6]:PORT with a port from 0 to 65535, such as 127.0.0.1:9840"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "txninsight.yaml"


def load(file: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> Config:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(file, environ or {})


def problems(file: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> list[str]:
    """Give the problems without the file's name in front: `LINE: PATH: what was expected (what was found)`."""
    with pytest.raises(ConfigError) as caught:
        load(file, text, environ)
    lines = str(caught.value).split("\n")
    assert lines == [str(problem) for problem in caught.value.problems]
    assert all(line.startswith(f"{file}:") for line in lines)
    return [line.removeprefix(f"{file}:") for line in lines]


# What ships


def test_the_shipped_file_says_the_defaults() -> None:
    assert load_config(SHIPPED, {}) == Config()


def test_an_empty_file_says_the_defaults(file: Path) -> None:
    assert load(file, "") == load(file, "# nothing\n") == load(file, "{}") == Config()


def test_the_shipped_file_names_every_key() -> None:
    text = SHIPPED.read_text()
    missing = [key for key in keys_of(schema()) if not re.search(rf"(?m)(^|[\s#{{]){re.escape(key)}:( |$)", text)]
    assert missing == []


def test_the_shipped_file_sets_every_key_of_every_section() -> None:
    shipped = yaml.safe_load(SHIPPED.read_text())
    for name, section in schema()["properties"].items():
        node = resolved(section)
        if name != "kafka":
            assert set(node.get("properties", {})) <= set(shipped[name]), name


def test_every_key_has_a_field_of_its_own() -> None:
    for name, section in schema()["properties"].items():
        node = resolved(section)
        if "properties" in node:
            assert list(node["properties"]) == list(getattr(Config(), name).__struct_fields__), name
    assert [*schema()["properties"], "filled_in"] == list(Config.__struct_fields__)
    assert list(schema()["$defs"]["mapping"]["properties"]) == list(EventMapping.__struct_fields__)


def resolved(section: dict[str, Any]) -> dict[str, Any]:
    """The node itself, where a section only refers to it."""
    name = section.get("$ref", "").removeprefix("#/$defs/")
    return schema()["$defs"][name] if name else section


def test_the_schema_is_a_schema_and_closed() -> None:
    Draft202012Validator.check_schema(schema())
    assert [node for node in nodes_of(schema()) if "properties" in node and is_open(node)] == []


def is_open(node: dict[str, Any]) -> bool:
    """Tell whether unknown keys pass; kafka.client is open on purpose, and a schema within a schema closes nothing."""
    return (
        node.get("additionalProperties") is not False
        and "bootstrap.servers" not in node["properties"]
        and ("type" in node)
    )


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL))
def test_every_example_of_the_guide_loads(file: Path, text: str) -> None:
    (file.parent / "kafka-password").write_text("hunter2\n")
    assert load(file, text, {"KAFKA_BOOTSTRAP": "broker:9092"}) != Config()


def test_the_guide_names_what_is_set_by_the_daemon() -> None:
    properties = schema()["properties"]["kafka"]["properties"]["client"]["properties"]
    assert [name for name in properties if name != "bootstrap.servers" and f"`{name}`" not in GUIDE.read_text()] == []


# What a file becomes


def test_a_file_becomes_one_frozen_object(file: Path) -> None:
    config = load(
        file,
        """
kafka: {client: {bootstrap.servers: "a:1,b:2", fetch.wait.max.ms: 100, log.connection.close: false, group.id: mine}}
topics: [orders, {name: payments, format: json}, {pattern: "eu\\\\..*", exclude: ["eu\\\\.test"]}]
readers: {monitors: 3}
http: {listen: "[::1]:80", allowed_hosts: [proxy.example.com, .svc]}
stuck: {idle_after_s: 10}
objective: {duration_s: 30, open_age_s: 90}
transaction_types: {loan: {overdue_after_s: 7}, 404: {idle_after_s: 1.5, objective: {duration_s: null, ratio: 0.5}}}
metrics: {duration_buckets_s: [1, 2.5]}
""",
    )
    client = {"bootstrap.servers": "a:1,b:2", "fetch.wait.max.ms": 100, "log.connection.close": False}
    assert config.kafka.client == client | {"group.id": "mine"}
    assert config.topics == (Topic("orders"), Topic("payments"), Topic(pattern="eu\\..*", exclude=("eu\\.test",)))
    assert (config.readers.monitors, config.readers.validators) == (3, 1)
    assert (config.http.host, config.http.port) == ("::1", 80)
    assert config.http.allowed_hosts == ("proxy.example.com", ".svc")
    assert config.metrics.duration_buckets_s == (1, 2.5)
    assert config.thresholds("loan") == Thresholds(10, 7, 60)
    assert config.transaction_types["loan"].objective == config.objective == Objective(30, 0.99, 90)
    assert config.transaction_types["404"].objective == Objective(None, 0.5, 90)
    assert config.thresholds("404") == Thresholds(1.5, 3600, 60)
    assert config.thresholds("other") is config.thresholds(None) is config.stuck
    with pytest.raises(AttributeError):
        config.readers.monitors = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("earliest", Start("earliest")),
        ("latest", Start("latest")),
        ("90s", Start("ago", 90)),
        ("15m", Start("ago", 900)),
        ("2h", Start("ago", 7200)),
        ("7d", Start("ago", 604_800)),
        ("3650d", Start("ago", 315_360_000)),
    ],
)
def test_start(file: Path, text: str, start: Start) -> None:
    assert load(file, f"start: {text}").start == start


def test_a_mapping(file: Path) -> None:
    text = """
topics:
  - name: t
    mapping:
      event: a.b
      txn_id: {header: order-id}
      ts: {path: meta.ms}
      txn_type: {const: order}
      status: {path: x}
      kinds: {Made: transaction_open, step_done: step_open, no: step_done}
      ts_unit: ms
  - name: u
    mapping: {event: {const: transaction_open}, txn_id: {key: true}}
"""
    first, second = (topic.mapping for topic in load(file, text).topics)
    assert first == EventMapping(
        event=FromPath(("a", "b")),
        txn_id=FromHeader("order-id"),
        ts=FromPath(("meta", "ms")),
        txn_type=FromConst("order"),
        step=FromPath(("step",)),
        status=FromPath(("x",)),
        kinds={
            "transaction_open": Kind.TRANSACTION_OPEN,
            "step_open": Kind.STEP_OPEN,
            "step_done": Kind.STEP_OPEN,
            "transaction_close": Kind.TRANSACTION_CLOSE,
            "Made": Kind.TRANSACTION_OPEN,
            "no": Kind.STEP_DONE,
        },
        ts_unit="ms",
    )
    assert second == EventMapping(event=FromConst("transaction_open"), txn_id=FromKey())


def test_which_entry_covers_a_topic() -> None:
    first = Topic(pattern="orders.*", exclude=("orders-test.*",))
    second, named, internal = Topic(pattern=".*"), Topic("orders-eu"), Topic("__named")
    config = Config(topics=(first, second, named, internal))
    covered = {
        "orders": first,
        "orders-eu": named,
        "orders-test-1": second,
        "my-orders": second,
        "__consumer_offsets": None,
        "__named": internal,
    }
    assert {topic: config.topic_for(topic) for topic in covered} == covered
    assert not Topic(pattern="orders").matches("orders\n")


def test_aliases_share_what_they_name(file: Path) -> None:
    text = "topics:\n- {name: a, mapping: &m {txn_id: order.id}}\n- {name: b, mapping: *m}\n"
    first, second = load(file, text).topics
    assert first.mapping == second.mapping == EventMapping(txn_id=FromPath(("order", "id")))


def test_scalars_are_those_of_yaml_1_2(file: Path) -> None:
    text = "topics: [{name: t, mapping: {txn_type: {const: no}, step: {const: 12:30:45}, status: {const: 2001-01-01}}}]"
    mapping = load(file, text).topics[0].mapping
    assert mapping is not None
    assert [mapping.txn_type, mapping.step, mapping.status] == list(map(FromConst, ["no", "12:30:45", "2001-01-01"]))


def test_client_properties_are_passed_as_they_are_written(file: Path) -> None:
    text = """
kafka: {client: {bootstrap.servers: a:1, sasl.password: 007, sasl.username: 1e5, x: .nan, y: TRUE, z: -1.50, n: -5}}
"""
    client = load(file, text).kafka.client
    assert list(client.values()) == ["a:1", "007", "1e5", ".nan", True, "-1.50", -5]


def test_a_byte_order_mark_is_fine(file: Path) -> None:
    assert load(file, b"\xef\xbb\xbfstart: latest").start == Start("latest")


# Faults


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "http: {}\nstuk: {}\n", ["2: stuk: expected a known key, perhaps stuck (found an unknown one)"], id="near"
        ),
        pytest.param(
            "log:\n  zzz: 1\n",
            ["2: log.zzz: expected a known key, one of level, format (found an unknown one)"],
            id="far",
        ),
        pytest.param("- a\n", ["1: (file): expected a mapping of keys to values (found a list of 1)"], id="root"),
        pytest.param("\n\n~\n", ["3: (file): expected a mapping of keys to values (found nothing)"], id="null root"),
        pytest.param("stuck:\n", ["1: stuck: expected a mapping of keys to values (found nothing)"], id="null section"),
        pytest.param(
            "stuck:\n  idle_after_s: null\n", [f"2: stuck.idle_after_s: expected {SECONDS} (found nothing)"], id="null"
        ),
        pytest.param(
            "stuck:\n  idle_after_s: 0\n  overdue_after_s: -1\n  commit_pending_after_s: 1e99\n",
            [
                f"2: stuck.idle_after_s: expected {SECONDS} (found 0)",
                f"3: stuck.overdue_after_s: expected {SECONDS} (found -1)",
                f"4: stuck.commit_pending_after_s: expected {SECONDS} (found 1e+99)",
            ],
            id="bounds",
        ),
        pytest.param(
            "stuck:\n  idle_after_s: .inf\n  overdue_after_s: .nan\n  commit_pending_after_s: true\n",
            [
                f"2: stuck.idle_after_s: expected {SECONDS} (found inf)",
                f"3: stuck.overdue_after_s: expected {SECONDS} (found nan)",
                f"4: stuck.commit_pending_after_s: expected {SECONDS} (found true)",
            ],
            id="no numbers",
        ),
        pytest.param(
            "readers: {monitors: 1.0, validators: '2'}\n",
            [
                "1: readers.monitors: expected a whole number, at least 1 and at most 64 (found 1.0)",
                "1: readers.validators: expected a whole number, at least 1 and at most 64 (found '2')",
            ],
            id="integers",
        ),
        pytest.param(
            "events:\n  colocated: yes\n", ["2: events.colocated: expected true or false (found 'yes')"], id="boolean"
        ),
        pytest.param(
            "log:\n  level: INFO\n",
            ["2: log.level: expected one of debug, info, warning, error (found 'INFO')"],
            id="enumeration",
        ),
        pytest.param(
            "transaction_types:\n  loan: {}\n  x:\n    idle_after_s: null\n    idle_afters: 1\n  '': {idle_after_s: 1}",
            [
                "2: transaction_types.loan: expected at least one key of this type, such as idle_after_s "
                "(found an empty mapping)",
                f"4: transaction_types.x.idle_after_s: expected {SECONDS} (found nothing)",
                "5: transaction_types.x.idle_afters: expected a known key, perhaps idle_after_s (found an unknown one)",
                "6: transaction_types.: expected the name of a transaction type (found another key)",
            ],
            id="transaction types",
        ),
        pytest.param("start: 90\n", [f"1: start: expected {START} (found 90)"], id="start without unit"),
        pytest.param("start: 90x\n", [f"1: start: expected {START} (found '90x')"], id="start with another unit"),
        pytest.param("start: 3651d\n", [f"1: start: expected {START} (found '3651d')"], id="start too long ago"),
        pytest.param("start: 0s\n", [f"1: start: expected {START} (found '0s')"], id="start now"),
        pytest.param(
            "start: |\n  latest\n", [f"1: start: expected {START} (found 'latest\\n')"], id="start with a break"
        ),
        pytest.param("http:\n  listen: 9840\n", [f"2: http.listen: expected {LISTEN} (found 9840)"], id="port alone"),
        pytest.param("http:\n  listen: :9840\n", [f"2: http.listen: expected {LISTEN} (found ':9840')"], id="no host"),
        pytest.param(
            "http:\n  allowed_hosts: [a.b, .c, '*', 'a:1', '*.b', '']\n",
            [
                f"2: http.allowed_hosts[{i}]: expected {ALLOWED} (found {v!r})"
                for i, v in [(3, "a:1"), (4, "*.b"), (5, "")]
            ],
            id="hosts",
        ),
        pytest.param("http:\n  listen: a:65536\n", [f"2: http.listen: expected {LISTEN} (found 'a:65536')"], id="port"),
        pytest.param(
            "http:\n  listen: ::1:80\n", [f"2: http.listen: expected {LISTEN} (found '::1:80')"], id="bare IPv6"
        ),
        pytest.param(
            "state:\n  settle_lateness_s: 61\n  settle_max_s: 60.5\n",
            ["3: state.settle_max_s: expected at least 61, as state.settle_lateness_s says (found 60.5)"],
            id="settle_max_s",
        ),
        pytest.param(
            "state:\n  settle_lateness_s: 601\n",
            ["1: state.settle_max_s: expected at least 601, as state.settle_lateness_s says (found 600)"],
            id="settle_max_s by default",
        ),
        pytest.param(
            "supervise: {backoff_initial_s: 2, backoff_max_s: 1}\n",
            ["1: supervise.backoff_max_s: expected at least 2, as supervise.backoff_initial_s says (found 1)"],
            id="backoff",
        ),
        pytest.param(
            "state:\n  settle_lateness_s: 700\n  settle_max_s: x\n",
            ["3: state.settle_max_s: expected a number, at least 0 and at most 315360000 (found 'x')"],
            id="a faulty value is not compared",
        ),
        pytest.param(
            "metrics:\n  duration_buckets_s:\n  - 1\n  - 3\n  - 3\n  - 2\n",
            [
                "5: metrics.duration_buckets_s[2]: expected bounds in ascending order, here above 3 (found 3)",
                "6: metrics.duration_buckets_s[3]: expected bounds in ascending order, here above 3 (found 2)",
            ],
            id="buckets",
        ),
        pytest.param(
            "metrics: {duration_buckets_s: []}\n",
            [
                "1: metrics.duration_buckets_s: expected a list, at least 1 long and at most 100 long "
                "(found an empty list)"
            ],
            id="no bucket",
        ),
        pytest.param(
            "topics: []\n", ["1: topics: expected a list, at least 1 long (found an empty list)"], id="no topic"
        ),
        pytest.param(
            "topics: orders\n", ["1: topics: expected a list, at least 1 long (found 'orders')"], id="one topic"
        ),
        pytest.param(
            "topics:\n- a/b\n- ..\n- 5\n- {}\n- name: 'a*'\n- ''\n",
            [
                f"2: topics[0]: expected {TOPIC} (found 'a/b')",
                f"3: topics[1]: expected {TOPIC} (found '..')",
                f"4: topics[2]: expected {TOPIC} (found 5)",
                f"5: topics[3]: expected {TOPIC} (found an empty mapping)",
                f"6: topics[4].name: expected {TOPIC_NAME} (found 'a*')",
                f"7: topics[5]: expected {TOPIC} (found '')",
            ],
            id="topic names",
        ),
        pytest.param(
            "topics:\n- a\n- name: a\n- pattern: b\n- pattern: b\n- name: b\n",
            [
                "3: topics[1]: expected each name once (found the one of topics[0] again)",
                "5: topics[3]: expected each pattern once (found the one of topics[2] again)",
            ],
            id="topics twice",
        ),
        pytest.param(
            "topics:\n- name: a\n  pattern: b\n- name: c\n  exclude: [d]\n- exclude: [e]\n",
            [
                "3: topics[0].pattern: expected either a name or a pattern, not both in one entry",
                "4: topics[1]: expected exclude only beside a pattern (found it alone)",
                f"6: topics[2]: expected {TOPIC} (found a mapping)",
                "6: topics[2]: expected exclude only beside a pattern (found it alone)",
            ],
            id="name and pattern",
        ),
        pytest.param(
            "topics:\n- pattern: '[a'\n- pattern: b\n  exclude:\n  - c\n  - '*'\n",
            [
                "2: topics[0].pattern: expected a regular expression of at most 1000 characters that compiles "
                "(found '[a': unterminated character set at position 0)",
                "6: topics[1].exclude[1]: expected a regular expression of at most 1000 characters that compiles "
                "(found '*': nothing to repeat at position 0)",
            ],
            id="patterns",
        ),
        pytest.param(
            "topics: [{name: a, format: avro}]\n", ["1: topics[0].format: expected json (found 'avro')"], id="format"
        ),
        pytest.param(
            "topics:\n- name: a\n  mapping:\n    event: {const: OrderMade}\n    txn_id: {const: x}\n"
            "    ts: {key: true}\n    txn_type: a..b\n    step: {path: a, const: b}\n    status: {header: x}\n"
            "    kinds: {Made: open}\n    ts_unit: us\n    txnid: x\n",
            [
                f"4: topics[0].mapping.event.const: expected {KINDS} (found 'OrderMade')",
                "5: topics[0].mapping.txn_id.const: expected a known key, one of path, key, header "
                "(found an unknown one)",
                "6: topics[0].mapping.ts.key: expected a known key, one of path (found an unknown one)",
                "7: topics[0].mapping.txn_type: expected a path such as order.type, "
                "or one of {path: ...} and {const: ...} (found 'a..b')",
                "8: topics[0].mapping.step: expected a path such as order.type, "
                "or one of {path: ...} and {const: ...} (found a mapping)",
                "9: topics[0].mapping.status.header: expected a known key, one of path, const (found an unknown one)",
                f"10: topics[0].mapping.kinds.Made: expected {KINDS} (found 'open')",
                "11: topics[0].mapping.ts_unit: expected one of s, ms (found 'us')",
                "12: topics[0].mapping.txnid: expected a known key, perhaps txn_id (found an unknown one)",
            ],
            id="mapping",
        ),
        pytest.param(
            "topics:\n- name: a\n  mapping:\n    txn_id: {key: false}\n    step: {}\n"
            "    status: {const: 7}\n    kinds: {}\n",
            [
                "4: topics[0].mapping.txn_id.key: expected true (found false)",
                "5: topics[0].mapping.step: expected a path such as order.type, "
                "or one of {path: ...} and {const: ...} (found an empty mapping)",
                "6: topics[0].mapping.status.const: expected a text of 1 to 256 characters (found 7)",
                "7: topics[0].mapping.kinds: expected a mapping of keys to values, at least 1 key in it "
                "(found an empty mapping)",
            ],
            id="mapping's forms",
        ),
        pytest.param(
            "topics:\n- name: a\n  mapping:\n    event: {const: step_open}\n    kinds: {Made: step_done}\n",
            [
                "5: topics[0].mapping.kinds: expected no kinds where the event is a constant of the topic (found both)",
            ],
            id="kinds of a constant",
        ),
        pytest.param(
            "kafka:\n  client:\n    group.id: x\n",
            ["2: kafka.client.bootstrap.servers: expected HOST:PORT,HOST:PORT,... (found nothing)"],
            id="no broker",
        ),
        pytest.param(
            "kafka:\n  client:\n    bootstrap.servers: ''\n    isolation.level: read_committed\n    error_cb: x\n"
            "    sasl.password:\n    fetch.wait.max.ms: [100]\n",
            [
                "3: kafka.client.bootstrap.servers: expected HOST:PORT,HOST:PORT,... (found not shown)",
                "4: kafka.client.isolation.level: expected to be left out: the daemon sets it itself",
                "5: kafka.client.error_cb: expected a librdkafka property of small letters, digits and dots "
                "(found another key)",
                "6: kafka.client.sasl.password: expected a text or a number or true or false (found nothing)",
                "7: kafka.client.fetch.wait.max.ms: expected a text or a number or true or false (found a list of 1)",
            ],
            id="client",
        ),
        pytest.param(
            "log:\n  level: info\nstart: latest\nlog:\n  levl: info\nstart: never\n",
            [
                "4: log: expected each key once (found again after line 1)",
                "5: log.levl: expected a known key, perhaps level (found an unknown one)",
                "6: start: expected each key once (found again after line 3)",
                f"6: start: expected {START} (found 'never')",
            ],
            id="keys twice",
        ),
        pytest.param(
            "log:\n  ? [a]\n  : b\n  level: info\n",
            ["2: log: expected keys of plain text (found another kind)"],
            id="a list as a key",
        ),
        pytest.param(
            "start: !!python/name:os.system ''\nlog: !!set {level}\nhttp: !x {}\nreaders: {monitors: !!int x}\n",
            [
                "1: start: expected plain YAML (found a tag: !...)",
                "2: log: expected plain YAML (found a tag: !...)",
                "3: http: expected plain YAML (found a tag: !...)",
                "4: readers.monitors: expected plain YAML (found a tag: !...)",
            ],
            id="tags",
        ),
        pytest.param(
            "\nlog: {level: [}\n",
            ["2: (file): expected YAML (while parsing a flow node: expected the node content, but found '}')"],
            id="syntax",
        ),
        pytest.param(
            "log:\n  level: info\n bad: 1\n",
            [
                "3: (file): expected YAML (while parsing a block mapping: expected <block end>, "
                "but found '<block mapping start>')"
            ],
            id="indentation",
        ),
        pytest.param(
            "a: b\n---\nc: d\n",
            ["2: (file): expected YAML (expected a single document in the stream: but found another document)"],
            id="two documents",
        ),
        pytest.param("topics:\n\t- a\n", ["2: (file): expected YAML (found a tab: use spaces)"], id="tab"),
        pytest.param(
            "\nstart: @hunter2\n",
            ["2: (file): expected YAML (found a text that begins with @, % or `: put it in quotes)"],
            id="no quotes",
        ),
        pytest.param("\n\nstart: \x07\n", ["3: (file): expected YAML (found a control character)"], id="control"),
        pytest.param("\nstart: *hunter2\n", ["2: (file): expected YAML (found undefined alias)"], id="no alias"),
        pytest.param(
            '\nstart: "\\UFFFFFFFF"\n',
            ["2: (file): expected YAML (found a number or an escape out of range)"],
            id="escape",
        ),
        pytest.param(
            'start: "\\0"\nhttp: {listen: "\\ud800:1"}\n',
            [
                "1: start: expected text (found a NUL or half a character)",
                "2: http.listen: expected text (found a NUL or half a character)",
            ],
            id="no text",
        ),
        pytest.param(b"\n\n# \xff\n", ["3: (file): expected UTF-8 text (found other bytes)"], id="bytes"),
        pytest.param(
            f"\nreaders:\n  monitors: {'9' * 5000}\n",
            ["3: readers.monitors: expected a number of some digits (found thousands)"],
            id="digits",
        ),
        pytest.param("\n" + "[" * 5000, ["2: (file): expected at most 20 levels (found more)"], id="deep"),
        pytest.param(
            '"a\\nb\\e": 1\n',
            [
                "1: a\\nb\\x1b: expected a known key, one of kafka, topics, start, readers, http, events, state, "
                "stuck, objective, transaction_types, metrics, limits, supervise, log, discovery (found an unknown one)"
            ],
            id="one line",
        ),
        pytest.param(
            f"start: {'x' * 200}\n", [f"1: start: expected {START} (found '{'x' * 59}...)"], id="long values are cut"
        ),
    ],
)
def test_each_fault_is_named_by_line_and_key(file: Path, text: str | bytes, expected: list[str]) -> None:
    assert problems(file, text) == expected


@pytest.mark.parametrize("name", [*schema()["properties"]["kafka"]["properties"]["client"]["properties"]][1:])
def test_the_daemon_keeps_its_own_properties(file: Path, name: str) -> None:
    text = f"kafka: {{client: {{bootstrap.servers: a:1, {name}: x}}}}"
    assert problems(file, text) == [f"1: kafka.client.{name}: expected to be left out: the daemon sets it itself"]


def test_a_fault_within_an_alias_is_named_where_it_stands(file: Path) -> None:
    text = "topics:\n- name: a\n  mapping: &m\n    stp: x\n- name: b\n  mapping: *m\n"
    unknown = "expected a known key, perhaps step (found an unknown one)"
    assert problems(file, text) == [f"4: topics[{index}].mapping.stp: {unknown}" for index in (0, 1)]


def test_an_alias_within_itself(file: Path) -> None:
    lines = problems(file, "log: {}\ntopics: &a [*a]\n")
    assert lines[1].startswith("2: topics[0][0]")
    assert lines[1].endswith(": expected at most 20 levels (found more, or an alias in itself)")


def test_aliases_cannot_explode(file: Path) -> None:
    levels = [f"- &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]" for level in range(1, 10)]
    text = "\n".join(["topics:", "- &l0 [x, x, x]", *levels])
    assert problems(file, text) == ["1: (file): expected at most 100000 values, aliases followed (found more)"]


def test_long_texts_cannot_be_repeated_without_bound(file: Path) -> None:
    most = "expected at most 4194304 characters, aliases followed (found more)"
    long = "x" * 100_000
    text = f"topics:\n- &long {long}\n" + "- *long\n" * 50
    assert problems(file, text) == [f"1: (file): {most}"]
    (file.parent / "long").write_text("x" * 65_536)
    text = "topics:\n- &long '${file:long}${file:long}'\n" + "- *long\n" * 50
    assert problems(file, text) == [f"1: (file): {most}"]


def test_values_are_counted_while_they_are_parsed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_reading, "_MOST_NODES", 1000)
    lines = problems(file, "topics:\n" + "- a\n" * 600 + "start: [" + "a, " * 600 + "\n")
    assert lines == ["602: (file): expected at most 1000 values (found more)"]


def test_a_file_may_have_a_megabyte(file: Path) -> None:
    assert load(file, b"#" * (1 << 20)) == Config()
    assert problems(file, b"#" * ((1 << 20) + 1)) == ["1: (file): expected at most 1048576 bytes (found more)"]


@pytest.mark.parametrize("line", ["key{}: 1\n", "${{A{}}}: &a{} '${{A{}}}'\n", "? [{}]\n: a\n"])
def test_of_very_many_faults_the_first_are_shown(file: Path, line: str) -> None:
    lines = problems(
        file, "".join(line.replace("{}", str(i)).replace("{{", "{").replace("}}", "}") for i in range(500))
    )
    assert len(lines) == 101
    assert lines[-1].endswith(": (file): expected at most 100 faults (found more: correct those above first)")
    with pytest.raises(ConfigError):
        load_state_directory(file, {})


def test_names_in_faults_are_cut(file: Path) -> None:
    key, name = "k" * 100_000, "N" * 5000
    first, second = problems(file, f"start: ${{{name}}}\n? {key}\n: 1\n")
    assert first == f"1: start: expected {'N' * 60}... to be set in the environment (found it unset)"
    assert second.startswith(f"2: {'k' * 60}...: expected a known key, one of kafka, ")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    lines, code = check_config(tmp_path / "none.yaml", {})
    assert (lines, code) == (
        [f"{tmp_path}/none.yaml:1: (file): expected a file to read (No such file or directory)"],
        2,
    )
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "socket"))
    kinds = {"": "a directory", "pipe": "a named pipe", "link": "a device", "socket": "a socket"}
    for name, kind in kinds.items():
        path = tmp_path / name
        assert check_config(path, {}) == ([f"{path}:1: (file): expected a file to read (found {kind})"], 2)
    assert check_config(Path("a\0b"), {}) == (["a\\x00b:1: (file): expected a file to read (not a path)"], 2)


def test_check_config(file: Path) -> None:
    assert check_config(SHIPPED, {}) == ([f"{SHIPPED}: good: 1 topic by name"], 0)
    load(file, "topics: [a, {name: b, mapping: {}}, {pattern: c}]\ntransaction_types: {x: {idle_after_s: 1}}\n")
    summary = "2 topics by name, 1 pattern, 1 mapping, 1 transaction type"
    assert check_config(file, {}) == ([f"{file}: good: {summary}"], 0)


def test_an_error_survives_a_pipe(file: Path) -> None:
    file.write_text("a: 1\nb: 2\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    copied = pickle.loads(pickle.dumps(caught.value))
    assert str(copied) == str(caught.value)
    assert copied.problems == caught.value.problems


# Substitution


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("${A}", "one"),
        ("${A}${B}-${A}", "onetwo-one"),
        ("x${file:secret}y", "xhunter2y"),
        ("${file:two-lines}", "a\nb"),
        ("${file:crlf}", "c"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("${A}$${B}", "one${B}"),
        ("$A $ $$ {A}", "$A $ $$ {A}"),
        ("${NESTED}", "${A}"),
        ("${EMPTY}", ""),
    ],
)
def test_substitution(file: Path, written: str, read: str) -> None:
    for name, content in {"secret": "hunter2\n", "two-lines": "a\nb\n", "crlf": "c\r\n"}.items():
        (file.parent / name).write_bytes(content.encode())
    environ = {"A": "one", "B": "two", "NESTED": "${A}", "EMPTY": ""}
    text = f"kafka: {{client: {{bootstrap.servers: a:1, client.id: '{written}'}}}}"
    assert load(file, text, environ).kafka.client["client.id"] == read


def test_an_absolute_path_is_taken_as_it_is(file: Path, tmp_path: Path) -> None:
    (tmp_path / "start").write_text("latest\n")
    assert load(file, f"start: ${{file:{tmp_path}/start}}").start == Start("latest", hidden=True)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("${NONE}", "expected NONE to be set in the environment (found it unset)"),
        ("${A", "expected a } after ${ (found none; a plain ${ is written $${)"),
        (
            "${A:-x}",
            "expected ${NAME} of letters, digits and _, or ${file:PATH} (found another; a plain ${ is written $${)",
        ),
        (
            "${}",
            "expected ${NAME} of letters, digits and _, or ${file:PATH} (found another; a plain ${ is written $${)",
        ),
        ("${file:none}", "expected a file to read at 'none' (No such file or directory)"),
        ("${file:}", "expected a file to read at '' (found a directory)"),
        ("${file:/dev/zero}", "expected a file to read at '/dev/zero' (found a device)"),
        ("${file:pipe}", "expected a file to read at 'pipe' (found a named pipe)"),
        ("${file:half}" * 9, "expected ${...} for at most 262144 characters in a text (found more)"),
        ("${file:large}", "expected at most 65536 bytes in 'large' (found more)"),
        ("${file:bytes}", "expected UTF-8 text in 'bytes' (found other bytes)"),
        ("${file:nul}", "expected text (found a NUL or half a character)"),
        (f"${{file:{'x' * 300}}}", f"expected a file to read at '{'x' * 59}... (File name too long)"),
    ],
)
def test_what_cannot_be_filled_in_is_named_once(file: Path, written: str, message: str) -> None:
    contents = {"large": b"x" * 65_537, "half": b"x" * 32_768, "bytes": b"\xff", "nul": b"\0"}
    for name, content in contents.items():
        (file.parent / name).write_bytes(content)
    os.mkfifo(file.parent / "pipe")
    expected = [f"{line}: {key}: {message}" for line, key in ((2, "topics[0]"), (3, "start"), (5, "http.listen"))]
    text = f"topics:\n- '{written}'\nstart: '{written}'\nhttp:\n  listen: '{written}'\n"
    assert problems(file, text, {"A": "one"}) == expected


SECRET = "hunter2-[*"


@pytest.mark.parametrize(
    "text",
    [
        "start: ${S}",
        "http: {listen: '${S}'}",
        "readers: {monitors: '${S}'}",
        "log: {level: 'x${file:s}'}",
        "topics: ['${S}']",
        "topics: [{pattern: '(?P<${S}>'}]",
        "topics: [{pattern: a, exclude: ['${S}']}]",
        "topics: [{name: a, mapping: {event: {const: '${S}'}, kinds: {x: '${S}'}, ts_unit: '${S}', txn_id: '.${S}'}}]",
        "kafka: '${S}'",
        "kafka: {client: {bootstrap.servers: ['${S}'], sasl.password: {x: '${S}'}, isolation.level: '${S}'}}",
        "kafka: {client: {bootstrap.servers: a:1, sasl.password: [hunter2-]}}",
        "nonsense: '${S}'",
        "kafka: {client: {sasl.password: *hunter2-}}",
        "kafka: {client: {sasl.password: !hunter2- x}}",
        "kafka: {client: {sasl.password: !hunter2-!x x}}",
    ],
)
def test_no_fault_shows_a_secret(file: Path, text: str) -> None:
    (file.parent / "s").write_text(SECRET)
    assert "hunter2" not in "".join(problems(file, text, {"S": SECRET}))


def test_no_form_of_a_config_shows_a_secret(file: Path) -> None:
    (file.parent / "s").write_text("hunter2.5:5")
    text = """
kafka: {client: {bootstrap.servers: "${S}", client.id: "x-${file:s}", sasl.password: hunter2, ssl.key.pem: hunter2,
  sasl.oauthbearer.client.secret: hunter2, sasl.oauthbearer.config: hunter2, fetch.wait.max.ms: 100}}
topics: ["${T}", {pattern: "${S}"}, {pattern: b, exclude: ["${T}"]}, {name: plain},
  {name: e, mapping: {txn_id: {header: "${T}"}, step: "${S}", status: {const: "${T}"}, txn_type: {path: "${S}"}}}]
http: {listen: "${S}"}
"""
    config = load(file, text, {"S": "hunter2.5:5", "T": "hunter2"})
    assert config.kafka.client["bootstrap.servers"] == "hunter2.5:5"
    assert config.kafka.client["sasl.password"] == "hunter2"
    assert (config.http.host, config.http.port) == ("hunter2.5", 5)
    assert config.topic_for("hunter2") is config.topics[0]
    for shown in (repr(config), str(config), f"{config}", json.dumps(config.redacted()), *map(repr, config.topics)):
        assert "hunter2" not in shown
    redacted = config.redacted()
    assert redacted["kafka"]["client"]["fetch.wait.max.ms"] == 100
    assert redacted["topics"][3]["name"] == "plain"
    with pytest.raises(TypeError):
        msgspec.json.encode(config)


def test_topics_are_plain_text_for_encoders(file: Path) -> None:
    topic = load(file, "topics: [{name: '${T}', mapping: {step: {const: '${T}'}}}]", {"T": "orders"}).topics[0]
    assert b"orders" in msgspec.msgpack.encode(topic)


def test_a_config_made_by_hand_shows_no_password() -> None:
    config = Config(kafka=KafkaConfig({"sasl.password": "hunter2", "client.id": Secret("hunter2")}))
    assert "hunter2" not in repr(config) + json.dumps(config.redacted())


def test_redacted_is_plain(file: Path) -> None:
    config = load(file, "topics: [{name: a, mapping: {kinds: {Made: step_open}, txn_id: {key: true}}}]")
    redacted = json.loads(json.dumps(config.redacted()))
    assert redacted["topics"][0]["mapping"]["kinds"]["Made"] == "step_open"
    assert redacted["start"] == {"kind": "earliest", "ago_s": 0}


# Whatever stands in the file


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "any.yaml"


def loads_or_tells(file: Path, content: bytes) -> None:
    """Load, or fail with problems that are each one line of the promised form."""
    file.write_bytes(content)
    environ = {"A": "one", "B": "\udcff"}
    lines, code = check_config(file, environ)
    if code == 0:
        is_usable(load_config(file, environ))
        return
    last = 1 + len(re.findall(rb"\r\n|[\r\n]|\xc2\x85|\xe2\x80[\xa8\xa9]", content))
    for line in lines:
        number, key, message = re.fullmatch(rf"{re.escape(str(file))}:([0-9]+): (.*?): (.*)", line).groups()  # type: ignore[union-attr]
        assert 1 <= int(number) <= last
        assert key
        assert message.startswith("expected ")
        assert line.isprintable()


def is_usable(config: Config) -> None:
    json.dumps(config.redacted())
    for txn_type in (None, *config.transaction_types):
        assert config.thresholds(txn_type).idle_after_s > 0
    assert 0 <= config.http.port <= 65535
    for topic in ("", "__x", "orders"):
        config.topic_for(topic)


words = st.sampled_from(sorted(keys_of(schema()) | {"bootstrap.servers", "isolation.level", "a", "<<", "${A}"}))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    words,
    st.sampled_from(
        ["latest", "7d", "a.b", "step_open", "127.0.0.1:1", "${A}", "${B}", "${file:x}", "(", "json", "ms"]
    ),
)
structures = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5), max_leaves=20
)
sections = st.dictionaries(st.sampled_from(sorted(schema()["properties"])), structures, max_size=6)


def known(node: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Give trees that look like configs: known keys in their places, with values of any kind among the right ones."""
    if "$ref" in node:
        return st.deferred(lambda: known(schema()["$defs"][node["$ref"].rpartition("/")[2]]))
    forms = [scalars]
    if "properties" in node:
        properties = {key: known(value) for key, value in node["properties"].items()}
        forms.append(st.fixed_dictionaries({}, optional=properties))
    if isinstance(node.get("additionalProperties"), dict):
        forms.append(st.dictionaries(words, known(node["additionalProperties"]), max_size=3))
    if "items" in node:
        forms.append(st.lists(known(node["items"]), max_size=4))
    if "enum" in node:
        forms.append(st.sampled_from(node["enum"]))
    if "minimum" in node or "exclusiveMinimum" in node:
        forms.append(st.integers(1, 64))
    return st.one_of(forms[::-1])


@settings(max_examples=150)
@given(content=st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(content=b"%YAML 1." + b"9" * 5000 + b"\n---\n")
@example(content=b"&a [*a, *a]")
@example(content=b"&a {a: *a}")
@example(content=b"? ? ? a")
@example(content=b"!!float _")
@example(content=b"\xff\xfe")
def test_any_bytes(scratch: Path, content: bytes) -> None:
    loads_or_tells(scratch, content)


@settings(max_examples=200)
@given(text=st.text(alphabet="abk:-[]{}&*!|>'\"%@`#?,.~<0197\n\t $\\", max_size=80))
def test_any_punctuation(scratch: Path, text: str) -> None:
    loads_or_tells(scratch, text.encode())


@settings(max_examples=200)
@given(tree=sections | known(schema()), flow=st.booleans())
def test_any_structure(scratch: Path, tree: Any, flow: bool) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True, default_flow_style=flow)
    loads_or_tells(scratch, text.encode("utf-8", "surrogatepass"))


@settings(max_examples=100)
@given(data=st.data())
def test_any_damage_to_the_shipped_file(scratch: Path, data: st.DataObject) -> None:
    content = SHIPPED.read_bytes()
    at = data.draw(st.integers(0, len(content)))
    removed = data.draw(st.integers(0, 40))
    loads_or_tells(scratch, content[:at] + data.draw(st.binary(max_size=5)) + content[at + removed :])

"""txninsight-replay as its users run it, against a real broker, judged by what consumers then see."""

import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, IsolationLevel, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec

from tests.harness.fixtures import MakeTopic
from tests.harness.waiting import await_that
from txninsightd.tools.stack.broker import Broker
from txninsightd.vocabulary import KEPT_TIME_HEADER

HANG_S = 120.0
AT = 1_750_000_000.0


@dataclass
class Ran:
    """What a run came to."""

    code: int
    said: str
    summary: dict[str, Any]


@dataclass
class Replays:
    """Writes files and runs the command on them."""

    bootstrap: str
    folder: Path

    def command(self, lines: list[dict[str, Any]], *options: str) -> list[str]:
        file = self.folder / "events.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        summary = ["--summary-json", str(self.folder / "summary.json")]
        return [
            sys.executable,
            "-m",
            "txninsightd.tools.replay",
            str(file),
            "--bootstrap",
            self.bootstrap,
            *summary,
            *options,
        ]

    def run(self, lines: list[dict[str, Any]], *options: str) -> Ran:
        done = subprocess.run(
            self.command(lines, *options), capture_output=True, text=True, timeout=HANG_S, check=False
        )
        return self.ran(done.returncode, done.stderr)

    def ran(self, code: int, said: str) -> Ran:
        summary = self.folder / "summary.json"
        return Ran(code, said, json.loads(summary.read_text()) if summary.exists() else {})


@pytest.fixture
def replays(broker: Broker, tmp_path: Path) -> Replays:
    return Replays(broker.bootstrap, tmp_path)


@pytest.fixture
def admin(broker: Broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.bootstrap})


@pytest.fixture
def read(broker: Broker) -> Callable[..., list[Message]]:
    """Reads a partition from its beginning to where the isolation level ends now."""

    def read(topic: str, partition: int = 0, *, committed: bool = False) -> list[Message]:
        consumer = Consumer(
            {
                "bootstrap.servers": broker.bootstrap,
                "group.id": "none",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed" if committed else "read_uncommitted",
            }
        )
        consumer.assign([TopicPartition(topic, partition, 0)])
        found: list[Message] = []
        give_up = time.monotonic() + HANG_S
        while time.monotonic() < give_up:
            message = consumer.poll(1.0)
            error = None if message is None else message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                consumer.close()
                return found
            assert error is None, error
            if message is not None:
                found.append(message)
        raise AssertionError("never came to the end of the partition")

    return read


def keys(messages: list[Message]) -> list[str]:
    return [(message.key() or b"").decode() for message in messages]


def ends(admin: AdminClient, topic: str) -> tuple[int, int]:
    """The last stable offset and the high watermark of partition 0."""

    def end(level: IsolationLevel) -> int:
        asked = admin.list_offsets({TopicPartition(topic, 0): OffsetSpec.latest()}, isolation_level=level)
        return int(next(iter(asked.values())).result(30).offset)

    return end(IsolationLevel.READ_COMMITTED), end(IsolationLevel.READ_UNCOMMITTED)


def record(topic: str, key: str, producer: str = "p", at: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"at": AT + at, "producer": producer, "topic": topic, "key": key, "value": {"ts": AT + at}} | more


def control(action: str, producer: str = "p", at: float = 0.0) -> dict[str, Any]:
    return {"at": AT + at, "producer": producer, "kafka": action}


def test_kafka_transactions_end_as_written(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic
) -> None:
    t = topic()
    ran = replays.run(
        [
            control("begin", "a"),
            record(t, "a1", "a"),
            control("begin", "b", at=0.1),
            record(t, "b1", "b", at=0.1),
            record(t, "plain", "c", at=0.2),
            record(t, "a2", "a", at=0.3),
            control("abort", "b", at=0.3),
            control("commit", "a", at=0.4),
            control("begin", "b", at=0.8),
            record(t, "b2", "b", at=0.8),
            control("commit", "b", at=0.8),
        ]
    )
    assert ran.code == 0, ran.said
    assert keys(read(t)) == ["a1", "b1", "plain", "a2", "b2"]
    assert keys(read(t, committed=True)) == ["a1", "plain", "a2", "b2"]
    counts = {name: ran.summary[name] for name in ("records", "commits", "aborts", "crashes", "delivery_errors")}
    assert counts == {"records": 5, "commits": 2, "aborts": 1, "crashes": 0, "delivery_errors": 0}
    assert 0 <= ran.summary["timing_error_p50_s"] <= ran.summary["timing_error_p99_s"]
    assert "timing error p50, p99" in ran.said


def test_as_fast_as_it_goes_aborted_records_are_written_too(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic
) -> None:
    t = topic()
    lines = []
    for n in range(20):
        inside = [record(t, f"{n}-{k}", at=n) for k in range(50)]
        lines += [control("begin", at=n), *inside, control("abort" if n % 2 else "commit", at=n)]
    ran = replays.run(lines, "--speed", "max")
    assert ran.code == 0, ran.said
    assert keys(read(t)) == [f"{n}-{k}" for n in range(20) for k in range(50)]
    assert keys(read(t, committed=True)) == [f"{n}-{k}" for n in range(0, 20, 2) for k in range(50)]
    assert ran.summary["timing_error_p50_s"] is None


def test_a_crash_freezes_the_last_stable_offset_until_the_transaction_times_out(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic, admin: AdminClient
) -> None:
    t = topic()
    ran = replays.run(
        [
            {"header": {"transaction_timeout_s": 12}},
            control("begin", "doomed"),
            record(t, "d1", "doomed"),
            record(t, "d2", "doomed"),
            control("crash", "doomed", at=0.1),
            record(t, "behind", "other", at=0.5),
        ],
        "--strict",
    )
    assert (ran.code, ran.summary["crashes"]) == (0, 1), ran.said
    assert ends(admin, t) == (0, 3)
    assert keys(read(t)) == ["d1", "d2", "behind"]
    assert keys(read(t, committed=True)) == []
    await_that(lambda: ends(admin, t) == (4, 4), "the log ends there")
    assert keys(read(t, committed=True)) == ["behind"]


def test_a_name_that_comes_back_after_its_crash_ends_what_it_left_open(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic, admin: AdminClient
) -> None:
    t = topic()
    ran = replays.run(
        [
            control("begin"),
            record(t, "lost"),
            control("crash"),
            control("begin", at=0.5),
            record(t, "kept", at=0.5),
            control("commit", at=0.5),
        ]
    )
    assert (ran.code, ran.summary["crashes"], ran.summary["commits"]) == (0, 1, 1), ran.said
    assert keys(read(t)) == ["lost", "kept"]
    await_that(lambda: keys(read(t, committed=True)) == ["kept"], "what was kept is committed")


def test_a_transaction_that_the_file_leaves_open_stays_open_until_its_id_is_taken_up_again(
    replays: Replays, topic: MakeTopic, admin: AdminClient
) -> None:
    t = topic()
    lines = [control("begin"), record(t, "k")]
    ran = replays.run(lines, "--transactional-id-prefix", f"{t}-")
    assert (ran.code, ran.summary["left_open"]) == (0, 1), ran.said
    assert ends(admin, t) == (0, 1)
    ran = replays.run([control("begin"), control("commit")], "--transactional-id-prefix", f"{t}-")
    assert ran.code == 0, ran.said
    await_that(lambda: ends(admin, t) == (2, 2), "the log ends there")


def test_rebased_times_keep_their_distances_and_are_not_in_the_future(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic
) -> None:
    t = topic()
    lines = [
        record(t, "number", at=0.0, value={"ts": AT}),
        record(t, "fraction", at=0.25, value={"ts": AT + 0.25, "deep": {"ts": 1}}),
        record(t, "ms", at=0.5, value={"ts": int(AT * 1000) + 500}),
        record(t, "text", at=0.75, value={"ts": "2025-06-15T15:06:40.750Z"}),
    ]
    ran = replays.run(lines)
    assert ran.code == 0, ran.said
    messages = read(t)
    stamps = [json.loads(message.value() or b"")["ts"] for message in messages]
    shift_s = ran.summary["shift_s"]
    moved = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(AT + shift_s))
    assert stamps == [AT + shift_s, AT + shift_s + 0.25, int(AT + shift_s) * 1000 + 500, f"{moved}.750Z"]
    published = [message.timestamp()[1] / 1000 for message in messages]
    for offset_s, at_s in enumerate(published):
        assert AT + shift_s + offset_s / 4 <= at_s + 0.002
        assert ran.summary["started_at"] - 0.002 <= at_s <= ran.summary["ended_at"] + 0.002
    assert abs(AT + shift_s - ran.summary["started_at"]) < 1e-5
    assert not any(message.headers() for message in messages)


def test_a_header_says_where_a_topics_timestamps_are(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic
) -> None:
    t = topic()
    header = {"header": {"topics": {t: {"ts_path": "meta.when"}}}}
    ran = replays.run([header, record(t, "k", value={"ts": 1, "meta": {"when": AT}})], "--speed", "max")
    assert json.loads(read(t)[0].value() or b"") == {"ts": 1, "meta": {"when": AT + ran.summary["shift_s"]}}
    ran = replays.run([header, record(t, "k", value={"ts": AT, "meta": {"when": AT}})], "--ts-field", "ts")
    assert json.loads(read(t)[1].value() or b"") == {"ts": AT + ran.summary["shift_s"], "meta": {"when": AT}}


def test_kept_times_are_the_original_ones_and_marked(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic
) -> None:
    t = topic(config={"retention.ms": "-1"})
    lines = [
        record(t, "a", at=0.125, headers={"x": "y"}),
        control("begin", "q"),
        record(t, "b", "q", at=9),
        control("commit", "q", at=9),
    ]
    ran = replays.run(lines, "--keep-time", "--speed", "max")
    assert (ran.code, ran.summary["shift_s"]) == (0, 0), ran.said
    a, b = sorted(read(t), key=lambda message: message.key() or b"")
    assert (a.timestamp()[1], b.timestamp()[1]) == (int(AT * 1000) + 125, int(AT * 1000) + 9000)
    assert (a.value(), b.value()) == (b'{"ts": 1750000000.125}', b'{"ts": 1750000009.0}')
    assert a.headers() == [("x", b"y"), (KEPT_TIME_HEADER, b"1")]
    assert b.headers() == [(KEPT_TIME_HEADER, b"1")]


def test_values_of_all_kinds_arrive_as_they_are(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic
) -> None:
    t = topic()
    raw = bytes(range(256))
    lines = [
        record(t, "json", value={"a": [1, 2.50, None], "text": "ä"}),
        {"at": AT, "producer": "p", "topic": t, "raw": base64.b64encode(raw).decode(), "headers": {"h": "v"}},
        {"at": AT, "producer": "p", "topic": t, "key": None, "raw": ""},
        {"at": AT, "producer": "p", "topic": t, "key": "tombstone"},
    ]
    assert replays.run(lines).code == 0
    json_, bytes_, empty, tombstone = read(t)
    assert json_.value() == json.dumps({"a": [1, 2.50, None], "text": "ä"}).encode()
    assert (bytes_.value(), bytes_.headers(), bytes_.key()) == (raw, [("h", b"v")], None)
    assert (empty.key(), empty.value()) == (None, b"")
    assert (tombstone.key(), tombstone.value()) == (b"tombstone", None)


JAVA_MURMUR2 = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536}
"""From the tests of Kafka's own org.apache.kafka.common.utils.Utils.murmur2."""


def test_partitions_are_the_named_ones_else_those_of_the_java_client(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic
) -> None:
    t = topic(7)
    named = [record(t, f"named-{n}", partition=n) for n in range(7)]
    assert replays.run([*named, *(record(t, key) for key in JAVA_MURMUR2)]).code == 0
    for n in range(7):
        hashed = [key for key, murmur2 in JAVA_MURMUR2.items() if (murmur2 & 0x7FFFFFFF) % 7 == n]
        assert keys(read(t, n)) == [f"named-{n}", *hashed]


def test_plain_events_from_standard_input(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic
) -> None:
    t = topic()
    opened = b'{"event":"step_open","txn_id":"x","ts":1750000000}'
    done_ = b'{"event":"step_done","txn_id":"x","ts":1750000000.25}'
    command = replays.command([], "--topic", t)
    command[command.index(str(replays.folder / "events.jsonl"))] = "-"
    done = subprocess.run(
        command, input=b"\n".join([opened, b"oops", done_]), capture_output=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 0
    assert b"line 2: not JSON" in done.stderr
    assert keys(read(t)) == ["x", "x"]
    assert [json.loads(message.value() or b"")["event"] for message in read(t)] == ["step_open", "step_done"]


def test_missing_topics_are_named_and_created_only_when_told(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic, admin: AdminClient
) -> None:
    there = topic()
    missing = [f"{there}-{word}" for word in ("header", "named", "else")]
    lines = [
        {"header": {"topics": {missing[0]: {"partitions": 4}}}},
        record(missing[0], "k"),
        record(missing[1], "k", partition=2),
        record(missing[2], "k"),
        record(there, "k"),
    ]
    ran = replays.run(lines)
    assert ran.code == 2
    assert all(name in ran.said for name in missing)
    assert "--create-topics" in ran.said
    assert not set(missing) & admin.list_topics(timeout=30).topics.keys()
    assert read(there) == []

    ran = replays.run(lines, "--create-topics")
    assert ran.code == 0, ran.said
    assert ran.summary["created_topics"] == sorted(missing)
    topics = admin.list_topics(timeout=30).topics
    assert [len(topics[name].partitions) for name in missing] == [4, 3, 1]
    assert keys(read(there)) == ["k"]


def test_topics_created_for_kept_times_keep_old_records(replays: Replays, topic: MakeTopic, admin: AdminClient) -> None:
    t = f"{topic()}-old"
    assert replays.run([record(t, "k")], "--keep-time", "--create-topics").code == 0
    resource = ConfigResource(ConfigResource.Type.TOPIC, t)
    assert admin.describe_configs([resource])[resource].result(30)["retention.ms"].value == "-1"


def test_a_named_partition_that_is_not_there_is_refused(replays: Replays, topic: MakeTopic) -> None:
    t = topic(2)
    ran = replays.run([record(t, "k", partition=2)])
    assert ran.code == 2
    assert f"partition 2 of topic {t}, which has 2" in ran.said
    ran = replays.run([record(f"{t}-new", "k", partition=2)], "--create-topics", "--partitions", "2")
    assert ran.code == 2
    assert "--partitions" in ran.said


def test_records_that_the_broker_refuses_are_counted_and_decide_the_exit_code(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic
) -> None:
    t = topic(config={"max.message.bytes": "2000"})
    big = {"ts": AT, "padding": "x" * 5000}
    ran = replays.run(
        [
            record(t, "big", "plain", value=big),
            record(t, "small", "plain", at=0.3),
            control("begin"),
            record(t, "big", value=big),
            control("commit", at=0.3),
            control("begin", at=0.5),
            record(t, "afterwards", at=0.5),
            control("commit", at=0.5),
        ]
    )
    assert ran.code == 1
    assert ran.summary["records"] == 2
    assert ran.summary["delivery_errors"] == 2
    assert ran.summary["transaction_errors"] == 1
    assert ran.summary["commits"] == 1
    assert "2 x Broker: Message size too large" in ran.said
    assert keys(read(t, committed=True)) == ["small", "afterwards"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_aborts_what_is_open_and_says_where(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic, admin: AdminClient, stop: signal.Signals
) -> None:
    t = topic()
    lines = [
        control("begin"),
        record(t, "open"),
        control("begin", "doomed"),
        record(t, "doomed", "doomed"),
        control("commit", at=10_000),
        control("crash", "doomed", at=10_000),
    ]
    with subprocess.Popen(replays.command(lines), stderr=subprocess.PIPE, text=True) as process:
        await_that(lambda: ends(admin, t)[1] == 2, "the log ends there")
        process.send_signal(stop)
        _, said = process.communicate(timeout=HANG_S)
    ran = replays.ran(process.returncode, said)
    assert ran.code == 130
    stopped = "stopped after line 4 of 6 (at 1750000000); 2 lines were not published; 2 open Kafka transactions"
    assert f"{stopped} were aborted" in said
    assert ran.summary["unpublished"] == 2
    assert (ran.summary["interrupted"], ran.summary["last_line"], ran.summary["crashes"]) == (True, 4, 0)
    await_that(lambda: ends(admin, t) == (4, 4), "the log ends there")
    assert sorted(keys(read(t))) == ["doomed", "open"]
    assert read(t, committed=True) == []


def test_a_producer_that_the_broker_does_not_take_up_ends_the_replay_before_it_begins(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic
) -> None:
    t = topic()
    ran = replays.run(
        [record(t, "k", "other"), control("begin"), record(t, "k"), control("commit")], "--transaction-timeout", "86400"
    )
    assert ran.code == 2
    assert "transaction.max.timeout.ms" in ran.said
    assert read(t) == []


def test_client_properties_come_from_a_file(
    replays: Replays, read: Callable[..., list[Message]], topic: MakeTopic, tmp_path: Path
) -> None:
    t = topic()
    properties = tmp_path / "client.properties"
    properties.write_text("# with a comment\n\ncompression.type = lz4\npartitioner=consistent\n")
    assert replays.run([record(t, "k")], "--client-config", str(properties)).code == 0
    assert keys(read(t)) == ["k"]
    properties.write_text("compresion.type=lz4\n")
    ran = replays.run([record(t, "k")], "--client-config", str(properties))
    assert ran.code == 2
    assert "compresion.type" in ran.said

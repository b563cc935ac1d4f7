"""What a reader takes over while it reads: how large and how early records may be, how many it takes, what it logs."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import structlog

from txninsightd.cluster.client_watchdog import ClientWatchdog
from txninsightd.ingest.reader import Reader
from txninsightd.ingest.topic_id_gate import TopicIdGate
from txninsightd.ingest.views import MonitorBuilder, Progress, ValidatorBuilder
from txninsightd.vocabulary import Mapping, PartitionRef, UpdateReaderSettings

NOW = 1_750_000_000.0
UPDATE = UpdateReaderSettings("error", "json", batch_records=7, queue_batches=3, value_bytes=40, future_tolerance_s=1.0)


class Record:
    """The part of a Kafka message that a monitor looks at."""

    def __init__(self, offset: int, ahead_s: float, padding: int = 0) -> None:
        event = {"event": "step_open", "txn_id": "t", "ts": NOW + ahead_s, "pad": "x" * padding}
        self._offset, self._value = offset, json.dumps(event).encode()

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes:
        return self._value

    def key(self) -> None:
        return None

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, int(NOW * 1000)


class Outside:
    """All that surrounds a reader: nothing is there, and nothing comes."""

    closed = False
    depth = 0

    def __init__(self, *commands: msgspec.Struct) -> None:
        self.commands = [msgspec.msgpack.encode(command) for command in commands]
        self.asked_for: list[int] = []

    def receive(self) -> list[bytes]:
        commands, self.commands = self.commands, []
        return commands

    def flush(self) -> None:
        pass

    def beat(self, queue_depth: int, paused: bool) -> None:
        pass

    def working(self) -> None:
        pass

    def poll(self, _: object) -> Any:
        return [] if isinstance(_, dict) else Record(0, 0)

    def consume(self, count: int, timeout_s: float) -> list[Any]:
        self.asked_for.append(count)
        return []


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_monitor_decodes_by_the_new_bounds() -> None:
    complaints: list[str] = []
    builder = MonitorBuilder(lambda _: Mapping(), 1000, 60.0, lambda result, _: complaints.append(result.value))
    progress = Progress(PartitionRef("orders", 0), 0, 0.0, 0.0)
    before = builder.message(progress, [Record(0, 30, padding=100)], NOW)
    assert (before.results, before.timestamps, before.signatures[0][4]) == ({"ok": 1}, [NOW + 30], False)
    builder.update_settings(100, 1.0)
    after = builder.message(progress, [Record(1, 30), Record(2, 0, padding=100)], NOW)
    assert (after.results, after.timestamps, after.signatures[0][4]) == ({"ok": 1, "oversized": 1}, [NOW], True)
    assert complaints == ["oversized"]


def test_a_reader_hears_the_command_at_its_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Outside(UPDATE)
    made: Any = outside
    builder = MonitorBuilder(lambda _: Mapping(), 1000, 60.0, lambda *_: None)
    topic_id_gate = TopicIdGate(made, made, lambda: NOW)
    client_watchdog = ClientWatchdog(new_client=lambda: False)
    reader = Reader(lambda: made, builder, made, topic_id_gate, client_watchdog, made, made, lambda: NOW, 100, 64)
    monkeypatch.setattr(reader, "_sort", lambda records: {})
    reader.step()
    assert outside.asked_for == [UPDATE.batch_records - 1]
    assert (reader._queue_batches, builder._value_bytes, builder._future_tolerance_s) == (3, 40, 1.0)
    with structlog.testing.capture_logs() as logged:
        structlog.get_logger().warning("not this")
        structlog.get_logger().error("but this")
    assert [line["event"] for line in logged] == ["but this"]


def test_a_validator_has_nothing_to_tune() -> None:
    builder = ValidatorBuilder()
    builder.update_settings(1, 1.0)
    assert builder.message(Progress(PartitionRef("orders", 0), 0, 0.0, 0.0), [Record(0, 0, padding=999)], NOW).runs == [
        0,
        1,
    ]

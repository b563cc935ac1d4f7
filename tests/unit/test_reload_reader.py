"""What a reader takes over while it reads: how large and how early records may be, how many it takes, what it logs."""

from collections.abc import Iterator

import pytest
import structlog

from tests.harness.reader_parts import NOW, Consumer, FixedClock, NotedHealth, ReaderLine, Record, reader_of
from txninsightd.ingest.views import MonitorBuilder, Progress, ValidatorBuilder
from txninsightd.vocabulary import Assign, Mapping, PartitionRef, PartitionStart, Sightings, UpdateReaderSettings

REF = PartitionRef("orders", 0)


UPDATE = UpdateReaderSettings(
    "error", "json", batch_records=7, queue_batches=3, value_bytes=100, future_tolerance_s=1.0
)


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_monitor_decodes_by_the_new_bounds() -> None:
    rejected: list[str] = []
    builder = MonitorBuilder(
        lambda _: Mapping(), 1000, 60.0, lambda result, _: rejected.append(result.value), FixedClock()
    )
    progress = Progress(REF, 0, 0.0, 0.0)
    before = builder.message(progress, [Record(REF, 0, 30, padding=100)], NOW)
    assert (before.results, before.timestamps, before.signatures[0][4]) == ({"ok": 1}, [NOW + 30], False)
    builder.update_settings(100, 1.0)
    after = builder.message(progress, [Record(REF, 1, 30), Record(REF, 2, 0, padding=100)], NOW)
    assert (after.results, after.timestamps, after.signatures[0][4]) == ({"ok": 1, "oversized": 1}, [NOW], True)
    assert rejected == ["oversized"]


def test_a_reader_obeys_the_command_at_its_next_step() -> None:
    """From that step on: fewer records a batch, shorter values, earlier back-pressure, and a new log level."""
    builder = MonitorBuilder(lambda _: Mapping(), 1000, 60.0, lambda *_: None, FixedClock())
    consumer, health = Consumer([Record(REF, 0, padding=100), Record(REF, 1, ahead_s=30)]), NotedHealth()
    line = ReaderLine(Assign([PartitionStart("orders", 0, 0, 0.0, 0, "")]), UPDATE)
    reader = reader_of(consumer, builder, line, health)
    reader.step()
    assert consumer.asked_for == [UPDATE.batch_records - 1]
    sent = [(message.results, message.timestamps) for message in line.sent if isinstance(message, Sightings)]
    assert sent == [({"oversized": 1, "ok": 1}, [NOW])]
    for line.depth in (UPDATE.queue_batches - 1, UPDATE.queue_batches, 0):
        reader.step()
    assert health.paused == [False, False, False, True]
    with structlog.testing.capture_logs() as logged:
        structlog.get_logger().warning("not this")
        structlog.get_logger().error("but this")
    assert [entry["event"] for entry in logged] == ["but this"]


def test_a_validator_has_nothing_to_tune() -> None:
    builder = ValidatorBuilder()
    builder.update_settings(1, 1.0)
    message = builder.message(Progress(REF, 0, 0.0, 0.0), [Record(REF, 0, 0, padding=999)], NOW)
    assert message.runs == [0, 1]

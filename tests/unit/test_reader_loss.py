"""What a reader passes over when it cannot read on."""

from typing import Any

from confluent_kafka import KafkaError, KafkaException

from txninsightd.cluster.client_watchdog import ClientWatchdog
from txninsightd.ingest.reader import Reader
from txninsightd.ingest.views import Progress, ValidatorBuilder
from txninsightd.vocabulary import PartitionRef

REF = PartitionRef("orders", 0)


class Broken:
    """A consumer at a damaged log; also all else that a reader needs. `ends`: what it is told of the log's ends."""

    def __init__(self, *ends: tuple[int, int] | None) -> None:
        self._ends = iter(ends)

    def get_watermark_offsets(self, *_: Any, **__: Any) -> tuple[int, int]:
        ends = next(self._ends)
        if ends is None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return ends

    def incremental_unassign(self, _: Any) -> None:
        pass

    def incremental_assign(self, _: Any) -> None:
        pass

    def working(self) -> None:
        pass


def test_steps_double_only_over_what_was_passed_over() -> None:
    outside: Any = Broken((0, 100), None, None, (0, 100), (0, 100))
    client_watchdog = ClientWatchdog(lambda: False)
    reader = Reader(
        lambda: outside, ValidatorBuilder(), outside, outside, client_watchdog, outside, outside, lambda: 0.0, 100, 64
    )
    progress = Progress(REF, 10, 0.0, 0.0)
    reader._progress[REF] = progress
    frontiers = []
    for _ in range(5):
        reader._skip_unreadable(REF, progress, "damaged")
        frontiers.append(progress.frontier)
    assert frontiers == [11, 11, 11, 13, 17]

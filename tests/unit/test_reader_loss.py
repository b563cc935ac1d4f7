"""What a reader passes over when it cannot read on."""

from confluent_kafka import KafkaError, KafkaException

from tests.harness.reader_parts import Consumer, Failed, NotedHealth, ReaderLine, reader_of
from txninsightd.ingest.views import ValidatorBuilder
from txninsightd.vocabulary import Assign, PartitionRef, PartitionStart

REF = PartitionRef("orders", 0)
BEGINS_AT = 10


def test_steps_double_only_over_what_was_passed_over() -> None:
    """Each batch is a damaged one; twice the broker does not say where the log ends, and so nothing is passed over."""
    silent = KafkaException(KafkaError(KafkaError._TRANSPORT))
    ends = ((0, 100), silent, silent, (0, 100), (0, 100))
    consumer = Consumer(*([Failed(REF, KafkaError._BAD_MSG)] for _ in ends), ends=ends)
    line = ReaderLine(Assign([PartitionStart("orders", 0, BEGINS_AT, 0.0, 0, "")]))
    reader = reader_of(consumer, ValidatorBuilder(), line, NotedHealth())
    for _ in ends:
        reader.step()
    assert consumer.assigned == [BEGINS_AT, 11, 11, 11, 13, 17]

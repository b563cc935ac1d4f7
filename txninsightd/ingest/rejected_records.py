"""What readers complain of, structured and sampled: records that could not be read, and librdkafka's own log lines.

A record's content is never logged.
"""

import logging
from collections.abc import Callable
from typing import Any

import structlog

from txninsightd.ingest.sampling import Sampler
from txninsightd.vocabulary import RecordResult

log = structlog.get_logger()


class RejectedRecords:
    """Takes the records that were passed over; one line by topic and result now and then."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._sampler = Sampler(now)

    def __call__(self, result: RecordResult, record: Any) -> None:
        """One record was passed over."""
        unsaid = self._sampler.take((record.topic(), result))
        if unsaid is None:
            return
        value = record.value()
        log.warning(
            "record_passed_over",
            result=result.value,
            topic=record.topic(),
            partition=record.partition(),
            offset=record.offset(),
            value_bytes=None if value is None else len(value),
            left_out=unsaid,
        )


class ClientLog(logging.Handler):
    """Where librdkafka's log lines go; one by facility (FAIL, ERROR, ...) now and then."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._sampler = Sampler(now)

    def emit(self, record: logging.LogRecord) -> None:
        """One line of librdkafka's."""
        text = record.getMessage()
        facility = text.split(" ", 1)[0]
        unsaid = self._sampler.take(facility)
        if unsaid is not None:
            log.warning("kafka_client", facility=facility, text=text, left_out=unsaid)


def client_logger(now: Callable[[], float]) -> logging.Logger:
    """A logger to hand to Kafka clients."""
    logger = logging.Logger("kafka_client")
    logger.addHandler(ClientLog(now))
    return logger

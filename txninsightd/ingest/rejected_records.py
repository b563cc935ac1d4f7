"""Logs records that could not be read, structured and sampled. A record's content is never logged."""

from collections.abc import Callable
from typing import Any

import structlog

from txninsightd.log_sampling import LogSampler
from txninsightd.vocabulary import RecordResult

log = structlog.get_logger()


class RejectedRecords:
    """Logs one line by topic and result now and then."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._sampler = LogSampler(now)

    def __call__(self, result: RecordResult, record: Any) -> None:
        """One record was rejected."""
        skipped = self._sampler.sample((record.topic(), result))
        if skipped is None:
            return
        value = record.value()
        log.warning(
            "record_rejected",
            result=result.value,
            topic=record.topic(),
            partition=record.partition(),
            offset=record.offset(),
            value_bytes=None if value is None else len(value),
            left_out=skipped,
        )

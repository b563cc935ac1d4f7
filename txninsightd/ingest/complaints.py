"""Samples of records that could not be read, for the log: one each ten seconds by topic and result, no content."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import structlog

from txninsightd.vocabulary import RecordResult

SAMPLE_EVERY_S = 10.0

log = structlog.get_logger()


class Complaints:
    """Counts what it does not log, and says so with the next sample."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._next_at: dict[tuple[str, str], float] = {}
        self._unsaid: Counter[tuple[str, str]] = Counter()

    def __call__(self, result: RecordResult, record: Any) -> None:
        """One record was passed over."""
        what = (record.topic(), result.value)
        if self._now() < self._next_at.get(what, 0.0):
            self._unsaid[what] += 1
            return
        self._next_at[what] = self._now() + SAMPLE_EVERY_S
        value = record.value()
        log.warning(
            "record_passed_over",
            result=result.value,
            topic=record.topic(),
            partition=record.partition(),
            offset=record.offset(),
            value_bytes=None if value is None else len(value),
            more_since_last=self._unsaid.pop(what, 0),
        )

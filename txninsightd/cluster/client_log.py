"""librdkafka's own log lines, structured and sampled.

A client that could not create a thread or a socket says so here only, and works no more, or in part. So such a line
ends the process: a reader holds no state, and the parent starts another one when the host may have room again.
"""

import logging
import os
import re
from collections.abc import Callable

import structlog

from txninsightd import host_limits
from txninsightd.log_sampling import LogSampler

log = structlog.get_logger()


COULD_NOT_CREATE = re.compile(
    r"(?:unable|failed) to create [^:\[\]]{0,40}(?:thread|socket|pipe)\b[^\[\]]{0,200}", re.IGNORECASE
)
"""librdkafka's own words for what the host refuses. Elsewhere a broker, or a topic's name, may say anything."""


class ClientFailed(Exception):
    """A Kafka client that says what it could not do."""


class ClientLog(logging.Handler):
    """Logs one line by facility (FAIL, ERROR, ...) now and then."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._sampler = LogSampler(now)

    def emit(self, record: logging.LogRecord) -> None:
        """One line of librdkafka's. Ends the process if a limit of the host is behind it."""
        text = record.getMessage()
        failure = COULD_NOT_CREATE.search(text)
        if failure is not None and host_limits.log_if_limit(ClientFailed(failure[0])):
            os._exit(host_limits.EXIT_HOST_LIMIT)
        facility = text.split(" ", 1)[0]
        skipped = self._sampler.sample(facility)
        if skipped is not None:
            log.warning("kafka_client", facility=facility, text=text, left_out=skipped)


def client_logger(now: Callable[[], float]) -> logging.Logger:
    """A logger for Kafka clients."""
    logger = logging.Logger("kafka_client")
    logger.addHandler(ClientLog(now))
    return logger

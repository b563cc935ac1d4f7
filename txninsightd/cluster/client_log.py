"""librdkafka's own log lines, structured and sampled."""

import logging
from collections.abc import Callable

import structlog

from txninsightd.log_sampling import LogSampler

log = structlog.get_logger()


class ClientLog(logging.Handler):
    """Logs one line by facility (FAIL, ERROR, ...) now and then."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._sampler = LogSampler(now)

    def emit(self, record: logging.LogRecord) -> None:
        """One line of librdkafka's."""
        text = record.getMessage()
        facility = text.split(" ", 1)[0]
        skipped = self._sampler.sample(facility)
        if skipped is not None:
            log.warning("kafka_client", facility=facility, text=text, left_out=skipped)


def client_logger(now: Callable[[], float]) -> logging.Logger:
    """A logger for Kafka clients."""
    logger = logging.Logger("kafka_client")
    logger.addHandler(ClientLog(now))
    return logger

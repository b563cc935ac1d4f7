"""A Kafka consumer that a second thread may ask, and that is closed without waiting for a broker.

librdkafka closes a consumer once the offsets that it is committing have arrived. Without a broker it waits until there
is one again. Those offsets are for lag tools alone, so nothing is worth that wait: the close runs on a thread of its
own, which ends with the close or with the process.
"""

from collections.abc import Callable
from threading import Lock, Thread

import structlog
from confluent_kafka import Consumer

CLOSE_WITHIN_S = 1.0
"""With a broker a close takes some milliseconds."""

log = structlog.get_logger()


class ClosableConsumer:
    """Owns `consumer`: use it no more once `close` was called."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        # Held while the other thread asks the consumer, and while it is closed.
        self._lock = Lock()
        self._closing = False

    def ask(self, question: Callable[[Consumer], bool]) -> bool:
        """The answer of the consumer; True without a question once it is being closed. For another thread."""
        with self._lock:
            return self._closing or question(self.consumer)

    def close(self) -> None:
        """Close it; after `CLOSE_WITHIN_S` that goes on without the caller."""
        self._closing = True
        closing = Thread(target=self._close, name="close", daemon=True)
        closing.start()
        closing.join(CLOSE_WITHIN_S)
        if closing.is_alive():
            log.info("consumer_close_not_awaited", reason="the broker does not answer")

    def _close(self) -> None:
        # A question may be under way, and closing frees what it uses.
        with self._lock:
            self.consumer.close()

"""A real Kafka producer that executes its lines: begin, records, commit, abort, crash.

One thread uses it, and it blocks where Kafka blocks: a commit waits for its round trip. Errors are counted, not raised.
Only `open` raises `Refusal`, when the producer cannot start.

Records are flushed before an abort and before a crash, because the file says that they were written; librdkafka would
drop its queue. After a failed transaction the client is not used again, because librdkafka may carry the failure into
the next transaction. The next begin creates a new client with the same transactional.id.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from txninsightd.tools.events_file import Action, Control, Record
from txninsightd.tools.replaying.cluster import Refusal, reason_of, refused_properties
from txninsightd.tools.replaying.counts import Counts

SLICE_S = 1.0
"""A blocking call is split into slices of this length; a stop is noticed between them."""
OPEN_TIMEOUT_S = 60.0
END_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0

DEFAULTS = {
    "client.id": "txninsight-replay",
    # As in the Java client.
    "partitioner": "murmur2_random",
    # The topic limits the size, not the client.
    "message.max.bytes": "104857600",
    "enable.idempotence": "true",
    "log_level": "2",
}
# Dropped here, not refused by the broker.
_PURGED = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)


class ProducerSettings(msgspec.Struct, frozen=True):
    """A producer's settings. `transactional_id` None: a plain producer. Properties are librdkafka's."""

    name: str
    properties: dict[str, str]
    transactional_id: str | None
    transaction_timeout_s: float


class ScheduledLine(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A line and the time (monotonic clock, seconds) at which it is due; None without timing.

    `timestamp_ms` is the record's timestamp; 0 means the time of publication.
    """

    due: float | None
    line: Record | Control
    timestamp_ms: int = 0


class Publisher:
    """Publishes the lines of one producer. Call `open`, then `publish` batch by batch, then `finish`."""

    def __init__(self, settings: ProducerSettings, stopping: threading.Event) -> None:
        self._settings = settings
        self._stopping = stopping
        self._counts = Counts()
        self._client: Producer | None = None
        self._in_transaction = False

    def open(self) -> None:
        """Create the client; a transactional one also initializes with the broker. Raises Refusal."""
        try:
            self._client = Producer(self._properties())
        except (KafkaException, ValueError, TypeError) as error:
            raise refused_properties("--client-config", error, self._settings.properties) from error
        if self._settings.transactional_id is None:
            return
        refused = self._until_done(self._client.init_transactions, OPEN_TIMEOUT_S)
        if refused is not None:
            raise Refusal(
                f"the broker does not accept transactional.id {self._settings.transactional_id!r}: {refused.str()}; "
                "check the ACLs (Write and Describe on the transactional id), and that --transaction-timeout is within "
                "the broker's transaction.max.timeout.ms"
            )

    def publish(self, batch: Sequence[ScheduledLine]) -> Counts:
        """Execute the lines in order; returns the counts since the last call."""
        for each in batch:
            if isinstance(each.line, Control):
                self._note_timing(each)
                self._control(each.line.action)
            else:
                self._record(each.line, each.timestamp_ms)
                self._note_timing(each)
        if self._client is not None:
            # Failed deliveries are reported in this call and in flush, on this thread.
            self._client.poll(0)
        return self._take_counts()

    def finish(self) -> Counts:
        """Wait for all deliveries and close. An open transaction stays open, unless the replay is being stopped."""
        if self._client is not None:
            self._abort_at_stop() if self._stopping.is_set() else self._flush()
            self._counts.left_open += self._in_transaction
            self._close(self._client)
        return self._take_counts()

    def _properties(self) -> dict[str, Any]:
        properties: dict[str, Any] = DEFAULTS | self._settings.properties
        # Report only failures: a record is counted when librdkafka accepts it, and uncounted if delivery fails.
        properties |= {"delivery.report.only.error": True, "on_delivery": self._not_delivered}
        if self._settings.transactional_id is not None:
            properties["transactional.id"] = self._settings.transactional_id
            properties["transaction.timeout.ms"] = int(self._settings.transaction_timeout_s * 1000)
        return properties

    def _note_timing(self, each: ScheduledLine) -> None:
        """Note the delay. A record counts from its acceptance by librdkafka, a control line from its start."""
        if each.due is not None:
            self._counts.add_delay(time.monotonic() - each.due)

    def _record(self, record: Record, timestamp_ms: int) -> None:
        # Its begin has failed. Outside a transaction the client would refuse the record.
        if self._client is None or (self._settings.transactional_id is not None and not self._in_transaction):
            self._counts.delivery_error("skipped: its Kafka transaction had already failed")
            return
        try:
            self._hand_over(self._client, record, timestamp_ms)
        except (KafkaException, ValueError, TypeError) as error:
            self._counts.delivery_error(reason_of(error))
        # Raised only while the replay is being stopped.
        except BufferError:
            self._counts.unpublished += 1
        else:
            self._counts.records += 1

    def _hand_over(self, client: Producer, record: Record, timestamp_ms: int) -> None:
        partition = -1 if record.partition is None else record.partition
        headers: Any = record.headers
        while True:
            try:
                return client.produce(
                    record.topic,
                    value=record.payload,
                    key=record.key,
                    partition=partition,
                    timestamp=timestamp_ms,
                    headers=headers,
                )
            except BufferError:
                if self._stopping.is_set():
                    raise
                client.poll(0.1)

    def _control(self, action: Action) -> None:
        if action is Action.BEGIN:
            self._begin()
        elif action is Action.CRASH:
            self._flush()
        elif self._client is None or not self._in_transaction:
            self._counts.transaction_error(f"{action} skipped: the Kafka transaction had already failed")
        elif action is Action.COMMIT:
            self._commit(self._client)
        else:
            self._abort(self._client)

    def _begin(self) -> None:
        try:
            if self._client is None:
                self.open()
            assert self._client is not None
            self._client.begin_transaction()
            self._in_transaction = True
        except (Refusal, KafkaException) as error:
            self._client = None
            self._counts.transaction_error(f"begin failed: {reason_of(error)}")

    def _commit(self, client: Producer) -> None:
        error = self._until_done(client.commit_transaction, END_TIMEOUT_S)
        if error is None:
            self._counts.commits += 1
            self._in_transaction = False
        else:
            self._drop_client(client, "commit", error)

    def _abort(self, client: Producer) -> None:
        self._flush()
        error = self._until_done(client.abort_transaction, END_TIMEOUT_S)
        if error is None:
            self._counts.aborts += 1
            self._in_transaction = False
        else:
            self._drop_client(client, "abort", error)

    def _drop_client(self, client: Producer, what: str, error: KafkaError) -> None:
        """Abort a transaction that cannot end as written, if possible, and drop its client."""
        # The stop interrupted it; `finish` aborts the open transaction.
        if self._stopping.is_set():
            self._counts.unpublished += 1
            return
        self._counts.transaction_error(f"{what} failed: {error.str()}")
        if error.txn_requires_abort():
            self._until_done(client.abort_transaction, END_TIMEOUT_S)
        self._in_transaction = False
        self._close(client)

    def _close(self, client: Producer) -> None:
        """Close the client; its remaining queue is dropped and counted."""
        if len(client):
            # The flush reports purged records to `_not_delivered`.
            client.purge()
            client.flush(SLICE_S)
        self._client = None

    def _abort_at_stop(self) -> None:
        assert self._client is not None
        if not self._in_transaction:
            self._client.flush(STOP_TIMEOUT_S)
            return
        try:
            self._client.abort_transaction(STOP_TIMEOUT_S)
            self._counts.aborted_at_stop += 1
            self._in_transaction = False
        except KafkaException as error:
            self._counts.transaction_error(f"abort during the stop failed: {reason_of(error)}")

    def _flush(self) -> None:
        deadline = time.monotonic() + END_TIMEOUT_S
        while self._client is not None and self._client.flush(SLICE_S):
            if self._stopping.is_set() or time.monotonic() > deadline:
                return

    def _until_done(self, call: Callable[[float], None], timeout_s: float) -> KafkaError | None:
        """Repeat the call until it succeeds; returns the error on failure or time-out. A stop shortens the time-out."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                # A time-out raises a retriable error; the next call continues the operation.
                call(SLICE_S)
                return None
            except KafkaException as exception:
                error: KafkaError = exception.args[0]
                if self._stopping.is_set():
                    deadline = min(deadline, time.monotonic() + STOP_TIMEOUT_S)
                if not error.retriable() or time.monotonic() > deadline:
                    return error

    def _not_delivered(self, error: KafkaError, _message: object) -> None:
        # It may have been counted in an earlier batch; only the sum must be right.
        self._counts.records -= 1
        if error.code() not in _PURGED:
            self._counts.delivery_error(error.str())
        elif self._stopping.is_set():
            self._counts.unpublished += 1
        else:
            self._counts.delivery_error("dropped: not delivered in time, or its Kafka transaction failed")

    def _take_counts(self) -> Counts:
        taken, self._counts = self._counts, Counts()
        return taken

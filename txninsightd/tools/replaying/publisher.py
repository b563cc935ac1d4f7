"""One real Kafka producer that does what its lines say: begin, records, commit, abort, crash.

It is used by one thread only, and blocks where Kafka blocks: a commit waits for its round trip. Whatever goes wrong is
counted, never raised, except in `open`: a producer that cannot begin its work is a `Refusal`.

Records are flushed before an abort and before a crash, because the file says that they were written: librdkafka would
drop what still waits in its queue. A client whose transaction failed is not used again (librdkafka may carry the
failure into the next one): the next begin makes a new one with the same transactional.id.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from txninsightd.tools.events_file import Action, Control, Record
from txninsightd.tools.replaying.cluster import Refusal, reason_of
from txninsightd.tools.replaying.tally import Tally

SLICE_S = 1.0
"""A blocking call is made in slices of this length, so that a stop is noticed between them."""
OPEN_TIMEOUT_S = 60.0
END_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0

DEFAULTS = {
    "client.id": "txninsight-replay",
    # As in the Java client.
    "partitioner": "murmur2_random",
    # The topic decides what is too large, not the client.
    "message.max.bytes": "104857600",
    "enable.idempotence": "true",
    "log_level": "2",
}
# What was given up here, not refused by the broker.
_PURGED = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)


class ProducerSettings(msgspec.Struct, frozen=True):
    """What a producer is made of. `transactional_id` None: a plain producer. Properties are librdkafka's."""

    name: str
    properties: dict[str, str]
    transactional_id: str | None
    transaction_timeout_s: float


class Due(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A line and the moment (monotonic clock, seconds) at which it is due; None when there is no timing to keep.

    `timestamp_ms` is the record's timestamp; 0 stands for the moment of publication.
    """

    due: float | None
    line: Record | Control
    timestamp_ms: int = 0


class Publisher:
    """Publishes the lines of one producer. Call `open`, then `publish` batch by batch, then `finish`."""

    def __init__(self, settings: ProducerSettings, stopping: threading.Event) -> None:
        self._settings = settings
        self._stopping = stopping
        self._tally = Tally()
        self._client: Producer | None = None
        self._in_transaction = False

    def open(self) -> None:
        """Make the client and, for a transactional one, have the broker take it up. Raises Refusal."""
        try:
            self._client = Producer(self._properties())
        except (KafkaException, ValueError, TypeError) as error:
            raise Refusal(f"--client-config: {reason_of(error)}") from error
        if self._settings.transactional_id is None:
            return
        refused = self._until_done(self._client.init_transactions, OPEN_TIMEOUT_S)
        if refused is not None:
            raise Refusal(
                f"the broker does not take up transactional.id {self._settings.transactional_id!r}: {refused.str()}; "
                "check the ACLs (Write and Describe on the transactional id), and that --transaction-timeout is within "
                "the broker's transaction.max.timeout.ms"
            )

    def publish(self, batch: Sequence[Due]) -> Tally:
        """Do what the lines say, in their order; what was counted since the last time."""
        for each in batch:
            if isinstance(each.line, Control):
                self._note_timing(each)
                self._control(each.line.action)
            else:
                self._record(each.line, each.timestamp_ms)
                self._note_timing(each)
        if self._client is not None:
            # Failed deliveries are reported from here and from flush, on this thread.
            self._client.poll(0)
        return self._take_tally()

    def finish(self) -> Tally:
        """Wait until all is delivered, and close. A transaction left open stays open, unless a stop aborts it."""
        if self._client is not None:
            self._abort_at_stop() if self._stopping.is_set() else self._flush()
            self._tally.left_open += self._in_transaction
            self._close(self._client)
        return self._take_tally()

    def _properties(self) -> dict[str, Any]:
        properties: dict[str, Any] = DEFAULTS | self._settings.properties
        # Only failures: a record is counted when it is handed over, and taken back if it does not arrive.
        properties |= {"delivery.report.only.error": True, "on_delivery": self._not_delivered}
        if self._settings.transactional_id is not None:
            properties["transactional.id"] = self._settings.transactional_id
            properties["transaction.timeout.ms"] = int(self._settings.transaction_timeout_s * 1000)
        return properties

    def _note_timing(self, each: Due) -> None:
        """A record counts as published when librdkafka has it, a control line when it begins to be carried out."""
        if each.due is not None:
            self._tally.note_late(time.monotonic() - each.due)

    def _record(self, record: Record, timestamp_ms: int) -> None:
        # Its begin has failed, so there is no transaction for it; outside of one the client would refuse it.
        if self._client is None or (self._settings.transactional_id is not None and not self._in_transaction):
            self._tally.delivery_error("left out: its Kafka transaction had failed before")
            return
        try:
            self._hand_over(self._client, record, timestamp_ms)
        except (KafkaException, ValueError, TypeError) as error:
            self._tally.delivery_error(reason_of(error))
        # It comes out here only once the replay is stopped.
        except BufferError:
            self._tally.unpublished += 1
        else:
            self._tally.records += 1

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
            self._tally.transaction_error(f"{action} left out: the Kafka transaction had failed before")
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
            self._tally.transaction_error(f"begin failed: {reason_of(error)}")

    def _commit(self, client: Producer) -> None:
        error = self._until_done(client.commit_transaction, END_TIMEOUT_S)
        if error is None:
            self._tally.commits += 1
            self._in_transaction = False
        else:
            self._give_up(client, "commit", error)

    def _abort(self, client: Producer) -> None:
        self._flush()
        error = self._until_done(client.abort_transaction, END_TIMEOUT_S)
        if error is None:
            self._tally.aborts += 1
            self._in_transaction = False
        else:
            self._give_up(client, "abort", error)

    def _give_up(self, client: Producer, what: str, error: KafkaError) -> None:
        """A transaction that cannot end as written is aborted where it can be, and its client is given up."""
        # Cut short by the stop: `finish` aborts what is open.
        if self._stopping.is_set():
            self._tally.unpublished += 1
            return
        self._tally.transaction_error(f"{what} failed: {error.str()}")
        if error.txn_requires_abort():
            self._until_done(client.abort_transaction, END_TIMEOUT_S)
        self._in_transaction = False
        self._close(client)

    def _close(self, client: Producer) -> None:
        """Let go of the client; what is still waiting in it is given up, and counted."""
        if len(client):
            # What is purged is reported to `_not_delivered` by the flush.
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
            self._tally.aborted_at_stop += 1
            self._in_transaction = False
        except KafkaException as error:
            self._tally.transaction_error(f"abort at the stop failed: {reason_of(error)}")

    def _flush(self) -> None:
        deadline = time.monotonic() + END_TIMEOUT_S
        while self._client is not None and self._client.flush(SLICE_S):
            if self._stopping.is_set() or time.monotonic() > deadline:
                return

    def _until_done(self, call: Callable[[float], None], timeout_s: float) -> KafkaError | None:
        """Call until it is through; the error when it cannot be, or not in time. A stop leaves it little time."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                # Past its time it fails with an error that may be tried again; the next call goes on where this one
                # was.
                call(SLICE_S)
                return None
            except KafkaException as exception:
                error: KafkaError = exception.args[0]
                if self._stopping.is_set():
                    deadline = min(deadline, time.monotonic() + STOP_TIMEOUT_S)
                if not error.retriable() or time.monotonic() > deadline:
                    return error

    def _not_delivered(self, error: KafkaError, _message: object) -> None:
        # Perhaps it was counted in a tally that was handed in before: only their sum has to be right.
        self._tally.records -= 1
        if error.code() not in _PURGED:
            self._tally.delivery_error(error.str())
        elif self._stopping.is_set():
            self._tally.unpublished += 1
        else:
            self._tally.delivery_error("given up: not delivered in time, or its Kafka transaction failed")

    def _take_tally(self) -> Tally:
        taken, self._tally = self._tally, Tally()
        return taken

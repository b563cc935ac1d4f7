"""The reader: one process that consumes its share of the partitions in one view, and sends it to the aggregator.

Its loop does the same for both roles: execute the aggregator's commands (which partitions, from where), take a batch,
note how far each partition has come, ask once a second where the logs end, and send one message for each partition in
which something was read. How far all were seen goes into one `Seen` about once a second (advances.py). So the cost of a
turn grows with the partitions that have news, and not with those that are read. Everything happens on this one thread,
so a position read after a batch is the position of that batch. A full outbox stops the reading, so back-pressure
reaches the broker instead of growing memory.

Messages are buffered for a moment, until the broker has confirmed that the topic is still the expected one
(topic_id_gate.py). A topic that is not is suspended at the position that was sent: if the topic comes back, reading
goes on there. A recreated topic is read when the aggregator says so, and by a new consumer: the old one keeps the old
topic's leader epochs, with which brokers can refuse it for ever.

The reader decides nothing about transactions. When its line to the aggregator ends, it ends.
"""

import select
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from txninsightd import logs
from txninsightd.ingest.advances import Advances
from txninsightd.ingest.closable_consumer import ClosableConsumer
from txninsightd.ingest.end_offset_client import EndOffset
from txninsightd.ingest.end_offsets import EndOffsets
from txninsightd.ingest.topic_id_gate import TopicIdGate
from txninsightd.ingest.views import Progress, ViewBuilder
from txninsightd.vocabulary import (
    Assign,
    CommitOffsets,
    Discovery,
    Line,
    PartitionRef,
    PartitionStart,
    Pause,
    Seen,
    SeenTopic,
    ToReader,
    UpdateReaderSettings,
    View,
)

# A record ends the wait at once. What the loop has asked for is taken at its next turn: an answer about a topic's id,
# for which buffered messages wait, or about an end. A turn without news costs half a millisecond, most of it waking up.
POLL_S_WHILE_BUFFERING = 0.005
POLL_S_WHILE_ASKING = 0.05
POLL_S = 0.25
STARVED_AFTER_S = 5.0
BUFFERED_SHARE = 4
"""Once the messages that wait for their topic's id fill one part in so many of the queue, the broker is asked at once:
otherwise they alone would look as if the aggregator were slow."""

UNREADABLE = frozenset(
    (
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError._LOG_TRUNCATION,
        KafkaError._BAD_MSG,
        KafkaError._BAD_COMPRESSION,
        KafkaError._NOT_IMPLEMENTED,
        KafkaError.INVALID_MSG,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
    )
)
"""Errors after which the same fetch would only fail again: retention, truncation, damage, too large to fetch."""

log = structlog.get_logger()


class ClientLost(Exception):
    """These Kafka clients may never work again, although there is a broker: the process must be replaced."""

    def __init__(self, clients: list[str]) -> None:
        super().__init__(", ".join(clients))
        self.clients = clients


class Scout(Protocol):
    """Looks for partitions beside the work loop."""

    def start(self, known: Iterable[PartitionRef], ids: Mapping[str, str], looked: bool) -> None:
        """Begin to look for partitions that are not among these, and for topics that no longer have these ids."""

    def next_discovery(self) -> Discovery | None:
        """The oldest discovery that was not given yet."""

    def stop(self) -> None:
        """Look no more."""


class ClientWatchdog(Protocol):
    """Detects, on its own thread, Kafka clients that will never work again."""

    @property
    def lost(self) -> list[str]:
        """The clients that will never work again."""

    def watch(self, name: str, finds_broker: Callable[[], bool]) -> None:
        """Check this client, too. Only before `start`."""

    def start(self) -> None:
        """Begin to check."""

    def look_at_clock(self) -> None:
        """Note if the wall clock was set back."""

    def consumer_finds_broker(self, consumer: Consumer, topic: str) -> bool:
        """Whether the consumer finds a broker."""

    def stop(self) -> None:
        """Check no more."""


class Health(Protocol):
    """Where the work loop shows that it is alive."""

    def beat(self, queue_depth: int, paused: bool) -> None:
        """The loop has completed a turn."""

    def working(self) -> None:
        """The loop is busy with a long step, and makes progress."""


class Reader:
    """Consumes one view. `batch_records` and `queue_batches` bound its memory."""

    def __init__(
        self,
        view: View,
        make_consumer: Callable[[], Consumer],
        builder: ViewBuilder,
        end_offsets: EndOffsets,
        topic_id_gate: TopicIdGate,
        client_watchdog: ClientWatchdog,
        line: Line,
        health: Health,
        now: Callable[[], float],
        batch_records: int,
        queue_batches: int,
        scout: Scout | None = None,
    ) -> None:
        self._view = view
        self._make_consumer = make_consumer
        self._closable = ClosableConsumer(make_consumer())
        self._builder = builder
        self._end_offsets = end_offsets
        self._topic_id_gate = topic_id_gate
        self._client_watchdog = client_watchdog
        self._line = line
        self._health = health
        self._now = now
        self._batch_records = batch_records
        self._queue_batches = queue_batches
        self._scout = scout
        # The keys of these three have no incarnation: a record or a Pause names topic and partition, nothing more.
        self._progress: dict[PartitionRef, Progress] = {}
        self._suspended: dict[PartitionRef, PartitionStart] = {}
        self._paused: set[PartitionRef] = set()
        self._advances = Advances(view)
        self._throttled = False
        self._last_batch_at = now()
        self._commands = msgspec.msgpack.Decoder(ToReader)
        client_watchdog.watch("consumer", self._consumer_finds_broker)

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until `stopping()` or the end of the line, then send what is left. Raises ClientLost."""
        self._client_watchdog.start()
        while not stopping() and not self._line.closed:
            self.step()
            self._client_watchdog.look_at_clock()
            if (lost := self._client_watchdog.lost) and not stopping():
                raise ClientLost(lost)
        self._client_watchdog.stop()
        if self._scout is not None:
            self._scout.stop()
        # Messages that are still buffered are dropped; the next reader reads them again. The rest is sent for as long
        # as the parent allows: it kills a reader that has not ended in half of `stop_timeout_s`.
        while self._line.depth and not self._line.closed:
            self._await_line(select.POLLOUT, POLL_S)
            self._line.flush()
        self._closable.close()

    def step(self) -> None:
        """One turn of the loop."""
        self._health.beat(self._depth, self._throttled)
        self._line.flush()
        for frame in self._line.receive():
            self._execute(self._commands.decode(frame))
        self._apply_back_pressure()
        records = self._take_batch()
        moved = self._sort(records)
        for end in self._end_offsets.poll(self._progress):
            self._note_end(end)
        self._report(moved)
        self._send_confirmed()
        discovery = self._scout.next_discovery() if self._scout is not None and not self._throttled else None
        if discovery is not None:
            self._line.send(discovery)

    @property
    def _consumer(self) -> Consumer:
        return self._closable.consumer

    # --- Commands and back-pressure -----------------------------------------------------------------------------------

    def _execute(self, command: ToReader) -> None:
        if isinstance(command, Assign):
            self._assign(command.starts)
        elif isinstance(command, Pause):
            self._set_paused(PartitionRef(command.topic, command.partition), command.paused)
        elif isinstance(command, CommitOffsets):
            self._commit(command.positions)
        elif isinstance(command, UpdateReaderSettings):
            self._update_settings(command)
        # `KnownPartitions` is left, which only the child with the scout is sent.
        elif self._scout is not None:
            self._scout.start(command.refs, command.topic_ids, command.looked)

    def _update_settings(self, command: UpdateReaderSettings) -> None:
        logs.setup(command.log_level, command.log_format)
        self._batch_records, self._queue_batches = command.batch_records, command.queue_batches
        self._builder.update_settings(command.value_bytes, command.future_tolerance_s)

    def _assign(self, starts: list[PartitionStart]) -> None:
        """Read these partitions, from these offsets."""
        # For a recreated topic, everything that belongs to the old id ends: its partitions, also those that are not
        # named here, and its pauses.
        recreated = {s.topic for s in starts if self._topic_id_gate.expect(s.topic, s.topic_id)}
        if recreated:
            self._leave([ref for ref in (*self._progress, *self._suspended) if ref.topic in recreated])
            self._paused = {ref for ref in self._paused if ref.topic not in recreated}
        refs = [PartitionRef(s.topic, s.partition) for s in starts]
        self._leave(refs)
        self._end_offsets.expect_news(refs)
        for ref, s in zip(refs, starts, strict=True):
            self._progress[ref] = Progress(
                ref._replace(incarnation=s.incarnation), s.start_offset, s.as_of, self._now()
            )
        if recreated:
            self._replace_consumer()
        else:
            self._consume(refs)
        log.info("partitions_assigned", count=len(starts), total=len(self._progress), recreated=sorted(recreated))

    def _leave(self, refs: Iterable[PartitionRef]) -> None:
        """Stop reading these partitions, and forget their suspension."""
        left = [self._progress.pop(ref) for ref in refs if ref in self._progress]
        for progress in left:
            self._advances.discard(progress)
        if left:
            self._consumer.incremental_unassign(self._partitions(progress.ref for progress in left))
        for ref in refs:
            self._suspended.pop(ref, None)

    def _consume(self, refs: Iterable[PartitionRef]) -> None:
        """Have the consumer fetch these partitions, which it does not fetch yet, from their frontiers."""
        starts = [TopicPartition(p.topic, p.partition, self._progress[p].frontier) for p in refs]
        self._consumer.incremental_assign(starts)
        # The aggregator's pauses go on; a new consumer does not have them yet.
        paused = self._partitions(self._paused.intersection(refs))
        if paused:
            self._consumer.pause(paused)

    def _replace_consumer(self) -> None:
        self._closable.close()
        self._closable = ClosableConsumer(self._make_consumer())
        # All partitions, from their frontiers: records that the old consumer had prefetched are fetched again.
        self._consume(self._progress)

    def _consumer_finds_broker(self) -> bool:
        """For the watchdog, on its thread. Only a starved consumer is asked, since it cannot serve the loop meanwhile.

        Starved: there are records to read, the loop wants them, and none has come for a while.
        """
        # A copy, since the loop may change the dict meanwhile.
        wanted = [p for ref, p in list(self._progress.items()) if ref not in self._paused]
        behind = [p.ref.topic for p in wanted if p.frontier < p.tracker.end_offset]
        if not behind or self._throttled or self._now() - self._last_batch_at < STARVED_AFTER_S:
            return True
        return self._closable.ask(lambda consumer: self._client_watchdog.consumer_finds_broker(consumer, behind[0]))

    def _commit(self, positions: list[PartitionStart]) -> None:
        """Show lag tools how far back a restart would begin. Nothing depends on it: a failure is only logged."""
        try:
            self._consumer.commit(
                offsets=[TopicPartition(p.topic, p.partition, p.start_offset) for p in positions], asynchronous=True
            )
        except KafkaException as failure:
            log.debug("offsets_not_committed", error=str(failure))

    def _set_paused(self, ref: PartitionRef, paused: bool) -> None:
        """Pause or resume one partition, on the aggregator's command."""
        if paused == (ref in self._paused):
            return
        (self._paused.add if paused else self._paused.discard)(ref)
        # A partition that is not read now is paused when it is assigned.
        if ref in self._progress:
            (self._consumer.pause if paused else self._consumer.resume)(self._partitions([ref]))

    def _apply_back_pressure(self) -> None:
        """Under back-pressure the consumer is not polled: librdkafka's prefetch is bounded, so it stops to fetch.

        Its own pause() would discard the prefetched records, to be fetched again a moment later.
        """
        depth = self._depth
        if not self._throttled and depth >= self._queue_batches:
            self._throttled = True
            log.debug("consumer_paused", queue_depth=depth)
        elif self._throttled and depth <= self._queue_batches // 2:
            self._throttled = False
            self._last_batch_at = self._now()
            log.debug("consumer_resumed", queue_depth=depth)

    @property
    def _depth(self) -> int:
        """How many messages wait, for their topic's id or for room in the pipe."""
        return self._line.depth + self._topic_id_gate.depth

    def _partitions(self, refs: Any) -> list[TopicPartition]:
        return [TopicPartition(ref.topic, ref.partition) for ref in refs]

    # --- Reading ------------------------------------------------------------------------------------------------------

    def _take_batch(self) -> list[Any]:
        wait_s = self._wait_s()
        if not self._progress and self._scout is None:
            # Only a command can bring something to do; a consumer without partitions would not be woken by that.
            self._await_line(select.POLLIN, wait_s)
            wait_s = 0.0
        if self._throttled:
            # A line with an empty outbox is always writable: waiting for it would make the loop spin.
            self._await_line(select.POLLOUT if self._line.depth else 0, wait_s)
            return []
        first = self._consumer.poll(wait_s)
        if first is None:
            return []
        self._last_batch_at = self._now()
        # consume() alone would wait until the batch is full or its time is over. So poll() waits for one record, and
        # consume() takes what has come with it.
        return [first, *self._consumer.consume(self._batch_records - 1, 0)]

    def _await_line(self, events: int, wait_s: float) -> None:
        """Wait for one of these events of the line, or for its end."""
        # Not select.select, which refuses descriptors beyond 1023.
        poll = select.poll()
        poll.register(self._line.fileno(), events)
        poll.poll(1000 * wait_s)

    def _wait_s(self) -> float:
        """For how long a turn may wait for a record."""
        if self._topic_id_gate.depth:
            return POLL_S_WHILE_BUFFERING
        # What the scout has found is sent at the next turn, and at first nothing is read before.
        is_scouting = self._scout is not None and not self._progress
        is_asking = self._topic_id_gate.is_asking or self._end_offsets.is_asking
        return POLL_S_WHILE_ASKING if is_asking or is_scouting or self._line.depth else POLL_S

    def _sort(self, records: list[Any]) -> dict[PartitionRef, list[Any]]:
        """The batch by partition, with each touched partition's progress brought up to date."""
        by_ref: dict[PartitionRef, list[Any]] = defaultdict(list)
        lost: set[PartitionRef] = set()
        last_topic, last_partition, current = None, -1, None
        for record in records:
            if record.error() is not None:
                self._take_error(record, by_ref, lost)
                # The error may have made its partition `lost`, so the next record looks its list up again.
                last_partition = -1
                continue
            topic, partition = record.topic(), record.partition()
            if partition != last_partition or topic != last_topic:
                ref = PartitionRef(topic, partition)
                last_topic, last_partition, current = topic, partition, [] if ref in lost else by_ref[ref]
            current.append(record)  # type: ignore[union-attr]
        touched = [ref for ref in by_ref if ref in self._progress]
        self._end_offsets.expect_news(touched)
        # Every Aborted verdict needs this order: first the batch, then the position, on the same thread. All records
        # below the position are then in the batch, or in an earlier one. -1001 (nothing read since the assignment) is
        # smaller than the others.
        for position in self._consumer.position(self._partitions(touched)) if touched else ():
            ref = PartitionRef(position.topic, position.partition)
            progress = self._progress[ref]
            progress.frontier = max(progress.frontier, position.offset, progress.eof_offset)
            if by_ref[ref] and ref not in lost:
                # A record was read: steps over the next damage begin at one offset again.
                progress.stride = 1
            if progress.tracker.reached(progress.frontier):
                self._advances.add(progress)
        return {ref: by_ref[ref] for ref in touched}

    def _take_error(self, record: Any, by_ref: dict[PartitionRef, list[Any]], lost: set[PartitionRef]) -> None:
        """`lost`: partitions that were assigned again in this batch; the batch's other records of them are ignored."""
        error = record.error()
        ref = PartitionRef(record.topic(), record.partition()) if record.topic() is not None else None
        progress = self._progress.get(ref) if ref is not None else None
        if ref is None or progress is None:
            log.warning("kafka_error", error=str(error))
        elif ref in lost:
            return
        elif error.code() == KafkaError._PARTITION_EOF:
            progress.eof_offset = record.offset()
            by_ref[ref]  # touched, though nothing arrived
        elif error.code() in UNREADABLE:
            # The gap begins after the good records that precede the damage; the frontier does not count them yet.
            if by_ref[ref]:
                progress.frontier = max(progress.frontier, by_ref[ref][-1].offset() + 1)
            self._skip_unreadable(ref, progress, str(error))
            lost.add(ref)
        else:
            log.warning("kafka_error", topic=ref.topic, partition=ref.partition, error=str(error))

    def _skip_unreadable(self, ref: PartitionRef, progress: Progress, error: str) -> None:
        """The next records cannot be read: make them a gap, and read on behind it.

        Deleted records: read on where the log now begins. Damaged records: a little further on. The end of a damaged
        batch is not known, and the offsets in the error may be damaged too. So the steps double for as long as errors
        follow, but never pass the end of the log.
        """
        partition = TopicPartition(ref.topic, ref.partition)
        self._health.working()
        try:
            low, high = self._consumer.get_watermark_offsets(partition, timeout=5)
        except KafkaException as failure:
            log.error("position_lost", topic=ref.topic, partition=ref.partition, error=str(failure))
            # The log's bounds are not known: make no gap, and try the same offset again.
            low = high = progress.frontier
        if progress.frontier > high:
            log.error(
                "log_ends_before_position",
                topic=ref.topic,
                partition=ref.partition,
                position=progress.frontier,
                end_offset=high,
                advice="if topic_recreated follows, the new topic will be read; if not, the log was truncated and the "
                "partition is left alone: to read it, stop txninsightd, remove the checkpoints, and start it again",
            )
            self._leave([ref])
            return
        next_offset = low if progress.frontier < low else min(progress.frontier + progress.stride, high)
        # Without the log's bounds nothing was skipped.
        if next_offset > progress.frontier:
            progress.stride *= 2
        log.warning(
            "records_unreadable",
            topic=ref.topic,
            partition=ref.partition,
            from_offset=progress.frontier,
            to_offset=next_offset,
            error=error,
        )
        # An earlier end of partition must not lift the frontier over the records that are fetched from here on.
        progress.eof_offset = -1
        progress.add_gap(progress.frontier, next_offset)
        self._consumer.incremental_unassign([partition])
        self._consumer.incremental_assign([TopicPartition(ref.topic, ref.partition, next_offset)])
        if ref in self._paused:
            self._consumer.pause([partition])

    # --- Sending ------------------------------------------------------------------------------------------------------

    def _report(self, batch: dict[PartitionRef, list[Any]]) -> None:
        """Build the messages of a batch: afterwards everything below each frontier is in messages."""
        # Later than the frontiers that `_sort` has read: `decided_at` may be late (settlement waits), never early.
        now = self._now()
        for ref, records in batch.items():
            progress = self._progress[ref]
            if records or progress.has_unreported:
                self._health.working()
                self._topic_id_gate.buffer(self._builder.message(progress, records, now))
                progress.mark_reported()

    def _note_end(self, end: EndOffset) -> None:
        progress = self._progress.get(end.ref)
        # An older question may be about a recreated topic's predecessor.
        if progress is None or end.asked_at < progress.begun_at:
            return
        if end.offset is not None:
            progress.tracker.answered(end.asked_at, end.offset)
        # Without a leader there are no writes: the partition ends where it ended when that was last known.
        elif end.leaderless and progress.frontier >= progress.tracker.end_offset >= 0:
            progress.tracker.answered(end.asked_at, progress.tracker.end_offset)
        else:
            progress.tracker.failed()
        if progress.tracker.reached(progress.frontier):
            self._advances.add(progress)

    def _send_confirmed(self) -> None:
        """Send the messages of confirmed topics; suspend topics that are not the expected ones, and resume others."""
        suspended = {ref.topic for ref in self._suspended} if self._suspended else ()
        is_filling = self._topic_id_gate.depth * BUFFERED_SHARE >= self._queue_batches
        advances = self._advances if not self._throttled else None
        answers = self._topic_id_gate.poll(advances, suspended, at_once=is_filling)
        for message in answers.messages:
            self._line.send(message)
            progress = self._progress.get(PartitionRef(message.topic, message.partition))
            if progress is not None:
                progress.sent_offset = message.to_offset
        # Last: it says that all records below have been sent.
        if answers.seen:
            self._line.send(Seen(self._view, answers.seen))
            for seen in answers.seen:
                self._note_sent(seen)
        refuted = [ref for ref in self._progress if ref.topic in answers.refuted] if answers.refuted else []
        if refuted:
            self._suspend(refuted)
        if self._suspended and answers.confirmed:
            self._assign([start for ref, start in self._suspended.items() if ref.topic in answers.confirmed])

    def _note_sent(self, seen: SeenTopic) -> None:
        for partition, as_of in zip(seen.partitions, seen.as_ofs, strict=True):
            progress = self._progress.get(PartitionRef(seen.topic, partition))
            if progress is not None:
                progress.sent_as_of = as_of

    def _suspend(self, refs: list[PartitionRef]) -> None:
        """Stop reading these partitions, and keep the position up to which messages were sent."""
        suspended = {}
        for ref in refs:
            progress, topic_id = self._progress[ref], self._topic_id_gate.id_of(ref.topic)
            suspended[ref] = PartitionStart(
                *ref[:2], progress.sent_offset, progress.sent_as_of, progress.ref.incarnation, topic_id
            )
        self._leave(refs)
        self._suspended.update(suspended)
        log.warning("topics_suspended", topics=sorted({ref.topic for ref in refs}), partitions=len(refs))

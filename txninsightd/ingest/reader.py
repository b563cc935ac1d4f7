"""The reader: one process that consumes its share of the partitions in one view, and tells the aggregator.

Its loop does the same for both roles: do what the aggregator says (which partitions, from where), take a batch, note
how far each partition has come, ask once a second where the logs end, and send one message for each partition that has
something to tell. Everything happens on this one thread, so a position read after a batch is the position of that
batch. A full outbox pauses the consumer, so back-pressure reaches the broker instead of growing memory.

What is to be told is held back for a moment, until the broker has said that the topic is still the one that was to be
read (topic_id_gate.py). A topic that is not is set aside, at the position that was told: should it come back, reading
goes on there. A recreated topic is read when the aggregator says so, and by a new consumer: the old one keeps the old
topic's leader epochs, with which brokers can refuse it for ever.

The reader decides nothing about transactions. When its line to the aggregator ends, it ends.
"""

import select
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from txninsightd import logs
from txninsightd.ingest.client_watchdog import ClientWatchdog, consumer_finds
from txninsightd.ingest.ends import Answer, EndQuestions
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
    ToReader,
    UpdateReaderSettings,
)

POLL_S = 0.05
# The word on a topic's id is only heard when the loop comes round, and what is held back waits for it.
POLL_S_WHILE_HOLDING = 0.005
STARVED_AFTER_S = 5.0
HELD_SHARE = 4
"""Once what is held for the broker's word on its topic fills so great a part of the queue, the broker is asked at once:
otherwise that alone would look as if the aggregator were slow."""

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
    """These Kafka clients of the process will find no broker any more, though there is one: it must be replaced."""

    def __init__(self, clients: list[str]) -> None:
        super().__init__(", ".join(clients))
        self.clients = clients


class Scout(Protocol):
    """Looks for partitions beside the work loop."""

    def start(self, known: Iterable[PartitionRef], ids: Mapping[str, str], looked: bool) -> None:
        """Begin to look for partitions that are not among these, and for topics that no longer have these ids."""

    def news(self) -> Discovery | None:
        """What was found since the last call."""

    def stop(self) -> None:
        """Look no more."""


class Health(Protocol):
    """Where the work loop shows that it is alive."""

    def beat(self, queue_depth: int, paused: bool) -> None:
        """The loop has come round."""

    def working(self) -> None:
        """The loop is in the midst of something long, and gets on with it."""


class Reader:
    """Consumes one view. `batch_records` and `queue_batches` bound what it holds."""

    def __init__(
        self,
        make_consumer: Callable[[], Consumer],
        builder: ViewBuilder,
        questions: EndQuestions,
        topic_id_gate: TopicIdGate,
        client_watchdog: ClientWatchdog,
        line: Line,
        health: Health,
        now: Callable[[], float],
        batch_records: int,
        queue_batches: int,
        scout: Scout | None = None,
    ) -> None:
        self._make_consumer = make_consumer
        self._consumer = make_consumer()
        self._builder = builder
        self._questions = questions
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
        self._aside: dict[PartitionRef, PartitionStart] = {}
        self._held: set[PartitionRef] = set()
        self._paused = False
        self._took_at = now()
        # Held by the lifeline's thread while it asks the consumer, and here while the consumer is closed or replaced.
        self._consumer_stays = threading.Lock()
        self._commands = msgspec.msgpack.Decoder(ToReader)
        client_watchdog.watch("consumer", self._consumer_finds)

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until `stopping` says so or the line ends, then send what is left. Raises ClientLost."""
        self._client_watchdog.start()
        while not stopping() and not self._line.closed:
            self.step()
            if lost := self._client_watchdog.lost:
                raise ClientLost(lost)
        # Before the lock is taken: whoever waits for it on the lifeline's thread then leaves the closed consumer alone.
        self._client_watchdog.stop()
        if self._scout is not None:
            self._scout.stop()
        with self._consumer_stays:
            self._consumer.close()
        # What is still held back stays unsaid, and is read again by the next reader here. The rest goes out for as long
        # as the parent bears it, which kills a reader that has not ended in half of `stop_timeout_s`.
        while self._line.depth and not self._line.closed:
            select.select([], [self._line.fileno()], [], POLL_S)
            self._line.flush()

    def step(self) -> None:
        """Once round the loop."""
        self._health.beat(self._depth, self._paused)
        self._line.flush()
        for frame in self._line.receive():
            self._obey(self._commands.decode(frame))
        self._apply_back_pressure()
        records = self._take_batch()
        moved = self._sort(records)
        for answer in self._questions.poll(self._progress):
            self._take_answer(answer)
        self._report(moved)
        self._tell()
        discovery = self._scout.news() if self._scout is not None and not self._paused else None
        if discovery is not None:
            self._line.send(discovery)

    # --- Commands and back-pressure -----------------------------------------------------------------------------------

    def _obey(self, command: ToReader) -> None:
        if isinstance(command, Assign):
            self._assign(command.starts)
        elif isinstance(command, Pause):
            self._hold(PartitionRef(command.topic, command.partition), command.paused)
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
        """Read these, from now on from there."""
        # Of a topic made anew all goes that was read under the old id, partitions that are not named here too, and a
        # Pause of the old one with it.
        anew = {s.topic for s in starts if self._topic_id_gate.expect(s.topic, s.topic_id)}
        if anew:
            self._leave([ref for ref in (*self._progress, *self._aside) if ref.topic in anew])
            self._held = {ref for ref in self._held if ref.topic not in anew}
        refs = [PartitionRef(s.topic, s.partition) for s in starts]
        self._leave(refs)
        for ref, s in zip(refs, starts, strict=True):
            self._progress[ref] = Progress(
                ref._replace(incarnation=s.incarnation), s.start_offset, s.as_of, self._now()
            )
        if anew:
            self._renew_consumer()
        else:
            self._consume(refs)
        log.info("partitions_assigned", count=len(starts), total=len(self._progress), topics_made_anew=sorted(anew))

    def _leave(self, refs: Iterable[PartitionRef]) -> None:
        """Read these no more."""
        read = [ref for ref in refs if self._progress.pop(ref, None) is not None]
        if read:
            self._consumer.incremental_unassign(self._partitions(read))
        for ref in refs:
            self._aside.pop(ref, None)

    def _consume(self, refs: Iterable[PartitionRef]) -> None:
        """Have the consumer fetch these, which it does not yet, from their frontiers."""
        starts = [TopicPartition(p.topic, p.partition, self._progress[p].frontier) for p in refs]
        self._consumer.incremental_assign(starts)
        # What the aggregator has paused stays so; a new consumer does not know of it.
        held = self._partitions(self._held.intersection(refs))
        if held:
            self._consumer.pause(held)

    def _renew_consumer(self) -> None:
        # Not hung: the lifeline may hold the lock for as long as one question takes, and closing takes its time.
        self._health.working()
        with self._consumer_stays:
            self._consumer.close()
            self._consumer = self._make_consumer()
        # All partitions, from their frontiers: what the old consumer had prefetched is fetched again.
        self._consume(self._progress)

    def _consumer_finds(self) -> bool:
        """For the lifeline, on its thread. Only a hungry consumer is asked: meanwhile it does nothing for the loop.

        Hungry: there is something to read, we want it, and nothing has come for a while.
        """
        # A copy, since the loop may change the dict meanwhile.
        wanted = [p for ref, p in list(self._progress.items()) if ref not in self._held]
        behind = [p.ref.topic for p in wanted if p.frontier < p.tracker.end_offset]
        if not behind or self._paused or self._now() - self._took_at < STARVED_AFTER_S:
            return True
        with self._consumer_stays:
            return self._client_watchdog.stopped or consumer_finds(self._consumer, behind[0])

    def _commit(self, positions: list[PartitionStart]) -> None:
        """Let lag tools see how far a restart would not go back. Nobody depends on it: what fails is only logged."""
        try:
            self._consumer.commit(
                offsets=[TopicPartition(p.topic, p.partition, p.start_offset) for p in positions], asynchronous=True
            )
        except KafkaException as failure:
            log.debug("offsets_not_committed", error=str(failure))

    def _hold(self, ref: PartitionRef, held: bool) -> None:
        """Keep one partition back, whatever the outbox says."""
        if held == (ref in self._held):
            return
        (self._held.add if held else self._held.discard)(ref)
        # One that is not read just now is paused when it is assigned.
        if ref in self._progress:
            (self._consumer.pause if held else self._consumer.resume)(self._partitions([ref]))

    def _apply_back_pressure(self) -> None:
        """A paused consumer is one that is not asked: what librdkafka has prefetched is bounded; it fetches no more.

        Its own pause() would throw the prefetched records away, to be fetched again a moment later.
        """
        depth = self._depth
        if not self._paused and depth >= self._queue_batches:
            self._paused = True
            log.debug("consumer_paused", queue_depth=depth)
        elif self._paused and depth <= self._queue_batches // 2:
            self._paused = False
            self._took_at = self._now()
            log.debug("consumer_resumed", queue_depth=depth)

    @property
    def _depth(self) -> int:
        """How many messages wait, to be told or to be taken."""
        return self._line.depth + self._topic_id_gate.depth

    def _partitions(self, refs: Any) -> list[TopicPartition]:
        return [TopicPartition(ref.topic, ref.partition) for ref in refs]

    # --- Reading ------------------------------------------------------------------------------------------------------

    def _take_batch(self) -> list[Any]:
        wait_s = POLL_S_WHILE_HOLDING if self._topic_id_gate.depth else POLL_S
        if self._paused:
            # A line with nothing to write can always be written to: to wait for it would make the loop spin.
            select.select([], [self._line.fileno()] if self._line.depth else [], [], wait_s)
            return []
        first = self._consumer.poll(wait_s)
        if first is None:
            return []
        self._took_at = self._now()
        # consume() alone would wait until the batch is full or its time over. So poll() waits for one record, and this
        # takes what has come with it.
        return [first, *self._consumer.consume(self._batch_records - 1, 0)]

    def _sort(self, records: list[Any]) -> dict[PartitionRef, list[Any]]:
        """The batch by partition, with each touched partition's progress brought up to date."""
        by_ref: dict[PartitionRef, list[Any]] = defaultdict(list)
        lost: set[PartitionRef] = set()
        last_topic, last_partition, current = None, -1, None
        for record in records:
            if record.error() is not None:
                self._take_error(record, by_ref, lost)
                # The error may have made its place `lost`, so whatever comes next looks its list up anew.
                last_partition = -1
                continue
            topic, partition = record.topic(), record.partition()
            if partition != last_partition or topic != last_topic:
                ref = PartitionRef(topic, partition)
                last_topic, last_partition, current = topic, partition, [] if ref in lost else by_ref[ref]
            current.append(record)  # type: ignore[union-attr]
        touched = [ref for ref in by_ref if ref in self._progress]
        # Every abort rests on this order: first the batch is noted, then the position is asked for, on the same thread.
        # All delivered below it is then in the notes. -1001 (nothing read since the assignment) loses to the others.
        for position in self._consumer.position(self._partitions(touched)) if touched else ():
            ref = PartitionRef(position.topic, position.partition)
            progress = self._progress[ref]
            progress.frontier = max(progress.frontier, position.offset, progress.eof_offset)
            if by_ref[ref] and ref not in lost:
                # A record came through: the next damage is felt out from one offset again.
                progress.stride = 1
        return {ref: by_ref[ref] for ref in touched}

    def _take_error(self, record: Any, by_ref: dict[PartitionRef, list[Any]], lost: set[PartitionRef]) -> None:
        """`lost`: places that were begun anew in this batch; what it still holds of them is of before, and is left."""
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
            # The good records before the damage count: the frontier is not behind them yet, and the gap begins there.
            if by_ref[ref]:
                progress.frontier = max(progress.frontier, by_ref[ref][-1].offset() + 1)
            self._resume_after_loss(ref, progress, str(error))
            lost.add(ref)
        else:
            log.warning("kafka_error", topic=ref.topic, partition=ref.partition, error=str(error))

    def _resume_after_loss(self, ref: PartitionRef, progress: Progress, error: str) -> None:
        """What lies ahead cannot be read: it is a gap, and reading goes on behind it.

        Deleted: where the log now begins. Damaged: a little further on. Where a damaged batch ends is not known, and
        what the error says of offsets may be damage itself, so the steps double for as long as errors follow, but never
        pass the end of the log.
        """
        partition = TopicPartition(ref.topic, ref.partition)
        self._health.working()
        try:
            low, high = self._consumer.get_watermark_offsets(partition, timeout=5)
        except KafkaException as failure:
            log.error("position_lost", topic=ref.topic, partition=ref.partition, error=str(failure))
            # Where the log begins and ends is not known: no gap is told, and the same offset is tried again.
            low = high = progress.frontier
        if progress.frontier > high:
            log.error(
                "log_ends_before_position",
                topic=ref.topic,
                partition=ref.partition,
                position=progress.frontier,
                end_offset=high,
                advice="if topic_made_anew follows, the new topic will be read; if not, the log was truncated and the "
                "partition is left alone: to read it, stop txninsightd, remove the checkpoints, and begin anew",
            )
            self._leave([ref])
            return
        resume_at = low if progress.frontier < low else min(progress.frontier + progress.stride, high)
        # Where the broker did not even say where the log ends, nothing was passed over.
        if resume_at > progress.frontier:
            progress.stride *= 2
        log.warning(
            "records_unreadable",
            topic=ref.topic,
            partition=ref.partition,
            from_offset=progress.frontier,
            to_offset=resume_at,
            error=error,
        )
        # An end that was told before must not lift the frontier over what is fetched from here on.
        progress.eof_offset = -1
        progress.add_gap(progress.frontier, resume_at)
        self._consumer.incremental_unassign([partition])
        self._consumer.incremental_assign([TopicPartition(ref.topic, ref.partition, resume_at)])
        if ref in self._held:
            self._consumer.pause([partition])

    # --- Telling ------------------------------------------------------------------------------------------------------

    def _report(self, batch: dict[PartitionRef, list[Any]]) -> None:
        """While the outbox is full, what is not a record waits in the progress: the outbox stays bounded."""
        # After `_sort` has read the frontiers: `decided_at` may be late, for which settlement waits, never early.
        now = self._now()
        for ref, progress in self._progress.items():
            # Before `has_news`, which looks at the `as_of` that this may move.
            progress.tracker.reached(progress.frontier)
            records = batch.get(ref)
            if records or (progress.has_news and not self._paused):
                self._health.working()
                self._topic_id_gate.hold(self._builder.message(progress, records or [], now))
                # After the message, which begins where the one before it ended (`reported`).
                progress.put_into_words()

    def _take_answer(self, answer: Answer) -> None:
        progress = self._progress.get(answer.ref)
        # Asked before this life of the partition began, it may be about the topic that bore the name before.
        if progress is None or answer.asked_at < progress.begun_at:
            return
        if answer.end_offset is not None:
            progress.tracker.answered(answer.asked_at, answer.end_offset)
        # Without a leader nobody can write: it ends where it ended when that was last known.
        elif answer.leaderless and progress.frontier >= progress.tracker.end_offset >= 0:
            progress.tracker.answered(answer.asked_at, progress.tracker.end_offset)
        else:
            progress.tracker.failed()

    def _tell(self) -> None:
        """What is certain goes out; a topic that is not (or no longer) the one to be read is set aside."""
        aside = {ref.topic for ref in self._aside} if self._aside else ()
        told = self._topic_id_gate.poll(aside, at_once=self._topic_id_gate.depth * HELD_SHARE >= self._queue_batches)
        for message in told.messages:
            self._line.send(message)
            progress = self._progress.get(PartitionRef(message.topic, message.partition))
            if progress is not None:
                progress.told = (message.to_offset, message.as_of)
        wrong = [ref for ref in self._progress if ref.topic in told.wrong] if told.wrong else []
        if wrong:
            self._set_aside(wrong)
        if self._aside and told.right:
            self._assign([found for ref, found in self._aside.items() if ref.topic in told.right])

    def _set_aside(self, refs: list[PartitionRef]) -> None:
        """Nothing of it was told since the position that is kept."""
        aside = {}
        for ref in refs:
            (offset, as_of), incarnation = self._progress[ref].told, self._progress[ref].ref.incarnation
            aside[ref] = PartitionStart(*ref[:2], offset, as_of, incarnation, self._topic_id_gate.id_of(ref.topic))
        self._leave(refs)
        # After `_leave`, which forgets what is set aside, too.
        self._aside.update(aside)
        log.warning("topics_set_aside", topics=sorted({ref.topic for ref in refs}), partitions=len(refs))

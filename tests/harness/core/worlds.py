"""Small worlds for the property tests: a broker's log, what both readers make of it, and orders of arrival.

A world keeps Kafka's real rules. Several transactional producers write at once and share partitions; plain ones write
between them; a Kafka transaction ends with a marker in each partition that it touched, not at the same moment; the last
stable offset (LSO) is the first offset of the earliest open one; the committed view delivers below the LSO what was
committed or plain. On top run business transactions as messy as life: retries after aborts with the same or new
timestamps, duplicates, missing opens and closes, several closes, clocks that disagree, equal timestamps, types that
differ, records of other applications.

Readers cut the log into batches at random, skip unreadable ranges, and tell an honest `as_of`: the latest moment at
which the broker was asked for the log's end and named one that they have passed. Whatever is random comes from a
`Chooser`, so that one generator serves hypothesis (which shrinks) and seeded runs (which are fast).
"""

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from hypothesis import strategies as st

from txninsightd.core.rules import Objectives, Rules
from txninsightd.vocabulary import (
    Coverage,
    Discovery,
    Kind,
    Objective,
    PartitionRef,
    PartitionStart,
    Sightings,
    Signature,
    Thresholds,
)

T = TypeVar("T")
Message = Sightings | Coverage | Discovery

BEGIN = 1000.0
FUTURE_TOLERANCE_S = 60.0


class Chooser(Protocol):
    """Where the random decisions come from."""

    def integer(self, low: int, high: int) -> int:
        """An integer, both ends included."""


class Seeded:
    """Decisions from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return low + int(self._random.random() * (high - low + 1))


class Drawn:
    """Decisions from hypothesis, which makes failing worlds small."""

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high)) if high > low else low


def chance(c: Chooser, percent: int) -> bool:
    """True so often; False is the smaller choice."""
    return c.integer(0, 99) >= 100 - percent


def pick(c: Chooser, options: Sequence[T]) -> T:
    """One of them; the first is the smallest choice."""
    return options[c.integer(0, len(options) - 1)]


# --- The broker -------------------------------------------------------------------------------------------------------


class Content(NamedTuple):
    """What a record says, if it is an event."""

    txn_id: str
    signature: Signature
    ts: float


@dataclass(eq=False)
class KafkaTransaction:
    """Open until it has a marker in each partition; `committed` is None as long as it was not ended."""

    first_offsets: dict[PartitionRef, int] = field(default_factory=dict)
    begun_at: dict[PartitionRef, float] = field(default_factory=dict)
    marked_at: dict[PartitionRef, float] = field(default_factory=dict)
    contents: list[Content] = field(default_factory=list)
    committed: bool | None = None


class Record(NamedTuple):
    """One offset of a log: an event, another application's record, or (`control`) a marker."""

    at: float
    record_ts: float
    content: Content | None
    kafka: KafkaTransaction | None
    control: bool = False

    @property
    def delivered(self) -> bool:
        """Whether the committed view delivers it, once it can."""
        return not self.control and (self.kafka is None or self.kafka.committed is True)


@dataclass
class Log:
    """One partition. Offsets are indexes into `records`."""

    ref: PartitionRef
    created_at: float
    records: list[Record] = field(default_factory=list)
    touching: list[KafkaTransaction] = field(default_factory=list)

    def append(self, record: Record) -> int:
        if self.records and record.at < self.records[-1].at:
            record = record._replace(at=self.records[-1].at)
        self.records.append(record)
        return len(self.records) - 1

    def high_watermark(self, at: float) -> int:
        """The end of what had been appended at that moment."""
        end = len(self.records)
        while end and self.records[end - 1].at > at:
            end -= 1
        return end

    def last_stable_offset(self, at: float) -> int:
        """The first offset of the earliest transaction then open, or the high watermark."""
        ref = self.ref
        held = [
            k.first_offsets[ref]
            for k in self.touching
            if k.begun_at[ref] <= at and (ref not in k.marked_at or k.marked_at[ref] > at)
        ]
        return min([self.high_watermark(at), *held])

    def recreated(self, at: float) -> "tuple[Log, Log]":
        """The log as it was deleted at that moment, and what was written from then on, in a log of its own."""
        ref = PartitionRef(self.ref.topic, self.ref.partition, self.ref.incarnation + 1)
        end = self.high_watermark(math.nextafter(at, 0))
        old, new = Log(self.ref, self.created_at, self.records[:end]), Log(ref, at, self.records[end:])
        for kafka in self.touching:
            marked_at = kafka.marked_at.pop(self.ref, None)
            if marked_at is not None:
                kafka.marked_at[ref if marked_at >= at else self.ref] = marked_at
            if kafka.first_offsets[self.ref] < end:
                old.touching.append(kafka)
            rest = [o for o, record in enumerate(new.records) if record.kafka is kafka and not record.control]
            if rest:
                kafka.first_offsets[ref], kafka.begun_at[ref] = rest[0], new.records[rest[0]].at
                new.touching.append(kafka)
        return old, new


class Outage(NamedTuple):
    """The broker does not answer in [began, ended)."""

    began: float
    ended: float


@dataclass
class World:
    """A finished history, and the rules under which it is watched."""

    rules: Rules
    logs: dict[PartitionRef, Log]
    ended_at: float
    outages: list[Outage]
    start_at: float = float("-inf")
    gone: dict[PartitionRef, float] = field(default_factory=dict)
    anew: dict[str, float] = field(default_factory=dict)

    def read_until(self, ref: PartitionRef) -> float:
        """When the readers can no longer read what was there."""
        recreated_at = float("inf") if ref.incarnation else self.anew.get(ref.topic, float("inf"))
        return min(self.gone.get(ref, float("inf")), recreated_at)

    def is_there(self, ref: PartitionRef, at: float) -> bool:
        """Whether the cluster has this partition at that moment."""
        return self.logs[ref].created_at <= at < self.read_until(ref)

    def start_offset(self, ref: PartitionRef) -> int:
        """Where both views begin."""
        return self.logs[ref].last_stable_offset(self.start_at) if self.start_at > 0 else 0


@dataclass
class Wanted:
    """One event that a business transaction still has to write; `ts` only where it is given by a former attempt."""

    kind: Kind
    step: str | None
    ts: float | None = None


@dataclass
class Business:
    """A business transaction and what it still has to write; `producer`: the one that writes most of it."""

    txn_id: str
    txn_type: str | None
    home: PartitionRef
    producer: int
    wanted: list[Wanted]
    kept_time: bool


class Style(NamedTuple):
    """How wild a world may be."""

    colocated: bool = False
    most_business: int = 4
    most_actions: int = 40
    settle_max_s: float = 100_000
    breaches: bool = False  # colocated, but an event may lie elsewhere all the same
    monitor_gaps: bool = True
    outages: bool = True
    vanishing: bool = False  # partitions that are deleted, topics that are recreated
    odd_clocks: int = 8  # percent of records


IN_S, PAY_IN_S = 8.0, 15.0
"""How long a transaction may take: any, and one of the type `pay`."""


def make_rules(style: Style) -> Rules:
    """Short thresholds, so that worlds of a minute or two reach all of them."""
    return Rules(
        colocated=style.colocated,
        settle_lateness_s=4.0,
        settle_max_s=style.settle_max_s,
        retry_grace_s=6.0,
        linger_s=1e9,
        remember_s=1e9,
        most_lingering=10**6,
        most_remembered=10**6,
        stuck=Thresholds(idle_after_s=12, overdue_after_s=30, commit_pending_after_s=5),
        stuck_by_type={"pay": Thresholds(idle_after_s=20, overdue_after_s=25, commit_pending_after_s=9)},
        objectives=Objectives(Objective(duration_s=IN_S), {"pay": Objective(duration_s=PAY_IN_S)}),
    )


REFS = (PartitionRef("a", 0), PartitionRef("a", 1), PartitionRef("b", 0), PartitionRef("c", 0))
SCRIPT_STEPS: tuple[tuple[str, ...], ...] = (("x",), (), ("x", "y"), ("x", "x"))


class Writer:
    """Writes a world's log, action by action."""

    def __init__(self, c: Chooser, style: Style) -> None:
        self.c = c
        self.style = style
        self.now = BEGIN
        count = c.integer(1, len(REFS))
        self.logs = {ref: Log(ref, 0.0) for ref in REFS[:count]}
        self.open: list[KafkaTransaction | None] = [None] * c.integer(1, 3)
        self.business = [self._business(i) for i in range(c.integer(1, style.most_business))]

    def _business(self, number: int) -> Business:
        c = self.c
        return Business(
            txn_id=f"t{number}",
            txn_type=pick(c, ("order", "order", "pay", None)),
            home=pick(c, list(self.logs)),
            producer=c.integer(0, len(self.open)),
            wanted=self._script(),
            kept_time=chance(c, 4),
        )

    def _script(self) -> list[Wanted]:
        c = self.c
        wanted = [] if chance(c, 8) else [Wanted(Kind.TRANSACTION_OPEN, None)]
        for step in pick(c, SCRIPT_STEPS):
            wanted.append(Wanted(Kind.STEP_OPEN, step))
            if not chance(c, 8):
                wanted.append(Wanted(Kind.STEP_DONE, step))
        if not chance(c, 10):
            wanted.append(Wanted(Kind.TRANSACTION_CLOSE, None))
        while wanted and chance(c, 12):
            twin = pick(c, wanted)
            wanted.insert(c.integer(0, len(wanted)), Wanted(twin.kind, twin.step))
        return wanted

    def write(self) -> None:
        c = self.c
        for _ in range(c.integer(2, self.style.most_actions)):
            self.now += pick(c, (0.0, 1.0, 0.0, 1.0, 2.0, 5.0, 0.25))
            roll = c.integer(0, 99)
            if roll < 64:
                self._write_event()
            elif roll < 88:
                self._end(c.integer(0, len(self.open) - 1))
            elif roll < 94:
                self._append(pick(c, list(self.logs)), None, None)
            else:
                self.now += pick(c, (8.0, 15.0, 40.0))
        for producer in range(len(self.open)):
            if not chance(c, 25):
                self.now += 1
                self._end(producer)

    def _write_event(self) -> None:
        c = self.c
        writing = [b for b in self.business if b.wanted]
        if not writing:
            return
        business = pick(c, writing)
        wanted = business.wanted.pop(c.integer(0, len(business.wanted) - 1) if chance(c, 12) else 0)
        ref = pick(c, list(self.logs))
        if self.style.colocated and not (self.style.breaches and chance(c, 10)):
            ref = business.home
        record_ts = self._clock()
        future = chance(c, 2)
        ts = record_ts
        if not future:
            ts = wanted.ts if wanted.ts is not None else record_ts + pick(c, (0.0, 0.0, 0.0, -1.0, 1.0, -3.0))
        txn_type = business.txn_type
        if chance(c, 12):
            txn_type = pick(c, (None, "order", "pay"))
        status = pick(c, (None, "ok", "failed")) if wanted.kind == Kind.TRANSACTION_CLOSE else None
        signature = Signature(int(wanted.kind), wanted.step, txn_type, status, future, business.kept_time)
        producer = c.integer(0, len(self.open)) if chance(c, 30) else business.producer
        self._append(ref, Content(business.txn_id, signature, ts), producer, record_ts)

    def _clock(self) -> float:
        """A producer's idea of now."""
        c = self.c
        if chance(c, self.style.odd_clocks):
            return self.now + pick(c, (-1.0, 1.0, -6.0, 6.0, -30.0, 45.0))
        return self.now

    def _append(
        self, ref: PartitionRef, content: Content | None, producer: int | None, record_ts: float | None = None
    ) -> None:
        """Append through a transactional producer, or (none, or beyond the last) a plain one."""
        log = self.logs[ref]
        kafka = None
        if producer is not None and producer < len(self.open):
            kafka = self.open[producer] = self.open[producer] or KafkaTransaction()
        offset = log.append(Record(self.now, self.now if record_ts is None else record_ts, content, kafka))
        if kafka is None:
            return
        if ref not in kafka.first_offsets:
            kafka.first_offsets[ref] = offset
            kafka.begun_at[ref] = log.records[offset].at
            log.touching.append(kafka)
        if content is not None:
            kafka.contents.append(content)

    def _end(self, producer: int) -> None:
        c = self.c
        kafka = self.open[producer]
        if kafka is None:
            return
        self.open[producer] = None
        kafka.committed = not chance(c, 40)
        for ref in kafka.first_offsets:
            marker = Record(self.now + pick(c, (0.0, 0.0, 1.0)), self.now, None, kafka, control=True)
            log = self.logs[ref]
            kafka.marked_at[ref] = log.records[log.append(marker)].at
        if not kafka.committed:
            self.now += pick(c, (0.0, 0.0, 4.0, 25.0, 90.0))
            for content in reversed(kafka.contents):
                self._retry(content)

    def _retry(self, content: Content) -> None:
        if not chance(self.c, 75):
            return
        same_ts = chance(self.c, 40)
        signature = content.signature
        business = next(b for b in self.business if b.txn_id == content.txn_id)
        wanted = Wanted(Kind(signature.kind), signature.step, content.ts if same_ts else None)
        business.wanted.insert(0, wanted)


def make_world(c: Chooser, style: Style) -> World:
    """A world, written to its end. Long after it everything has been said."""
    writer = Writer(c, style)
    writer.write()
    world = World(make_rules(style), writer.logs, writer.now + 1, [])
    span = int(writer.now - BEGIN)
    if chance(c, 15):
        world.start_at = BEGIN + c.integer(0, max(1, span // 2))
    if style.outages and chance(c, 15):
        began = BEGIN + c.integer(0, span)
        world.outages.append(Outage(began, began + pick(c, (5.0, 12.0, 40.0))))
    if style.vanishing and len(world.logs) > 1 and chance(c, 40):
        ref, at = pick(c, list(world.logs)), BEGIN + c.integer(0, span + 20)
        if chance(c, 40):
            world.anew[ref.topic] = at
            for old in [log for log in world.logs.values() if log.ref.topic == ref.topic]:
                world.logs[old.ref], new = old.recreated(at)
                world.logs[new.ref] = new
        else:
            world.gone[ref] = at
    if not style.colocated and len(world.logs) > 1 and chance(c, 15):
        young = list(world.logs.values())[-1]
        if young.records and not world.gone and not world.anew:
            young.created_at = young.records[0].at
    return world


# --- The readers ------------------------------------------------------------------------------------------------------


class Sent(NamedTuple):
    """A message and the moment at which its reader sent it."""

    at: float
    message: Message


class Ask(NamedTuple):
    """The broker was asked at `at` where the log ends; `outage_from` when it had not answered right before."""

    at: float
    end_offset: int
    outage_from: float


def _asks(world: World, end_of: Callable[[float], int], begin: float, every: float) -> list[Ask]:
    asks: list[Ask] = []
    failed = False
    at = begin
    while at <= world.ended_at + ALL_READ_AFTER_S:
        if any(o.began <= at < o.ended for o in world.outages):
            failed = True
        else:
            asks.append(Ask(at, end_of(at), asks[-1].at if failed and asks else 0.0))
            failed = False
        at += every
    at = world.ended_at + LAST_ASK_AFTER_S
    return [*asks, Ask(at, end_of(at), 0.0)]


ALL_READ_AFTER_S = 90.0
"""Both views have read all there is so long after the world's end; then one last look, when all waits are over."""
LAST_ASK_AFTER_S = 1005.0
LAST_READ_AFTER_S = 1010.0


class Pace:
    """What one reader has asked, and which answers its position has reached."""

    def __init__(self, asks: list[Ask]) -> None:
        self._asks = asks
        self._next = 0
        self.as_of = 0.0
        self.reached_offset = -1

    def reached(self, position: int, now: float) -> tuple[float, int, float]:
        """(as_of, end offset as last answered, outage that ended before this as_of)."""
        outage_from = 0.0
        while self._next < len(self._asks):
            ask = self._asks[self._next]
            if ask.at > now or ask.end_offset > position:
                break
            self.as_of = ask.at
            self.reached_offset = ask.end_offset
            self._next += 1
            if ask.outage_from:
                outage_from = ask.outage_from
                break
        answered = bisect_right(self._asks, now, key=lambda ask: ask.at)
        return self.as_of, self._asks[answered - 1].end_offset if answered else -1, outage_from


def _moments(c: Chooser, world: World, begin: float) -> Iterator[float]:
    """When a reader reads: at some moments of the world, and a few times after it; never during an outage."""
    at = begin
    moments = []
    while at < world.ended_at:
        moments.append(at)
        at += pick(c, (3.0, 8.0, 1.0, 20.0, 60.0))
    for later in (0.0, 4.0, 10.0, 30.0, ALL_READ_AFTER_S, LAST_READ_AFTER_S):
        if later in (0.0, ALL_READ_AFTER_S, LAST_READ_AFTER_S) or chance(c, 60):
            moments.append(world.ended_at + later)
    for at in moments:
        if at >= begin and not any(o.began <= at < o.ended for o in world.outages):
            yield at


def _next_stop(c: Chooser, position: int, available: int, last: bool) -> int:
    if last or available <= position or chance(c, 50):
        return max(available, position)
    return c.integer(position, available)


def _ranges(c: Chooser, log: Log, percent: int) -> list[tuple[int, int]]:
    """Unreadable ranges of a log, few and short."""
    found = []
    while log.records and chance(c, percent):
        low = c.integer(0, len(log.records) - 1)
        found.append((low, low + c.integer(1, 3)))
    return sorted(found)


def _clip(ranges: list[tuple[int, int]], low: int, high: int) -> list[int]:
    """The parts of the ranges within [low, high), joined, as flat ascending pairs."""
    offsets = sorted({o for a, b in ranges for o in range(max(a, low), min(b, high))})
    return runs(offsets)


def runs(offsets: list[int]) -> list[int]:
    """Ascending offsets as flat half-open pairs."""
    flat: list[int] = []
    for offset in offsets:
        if flat and flat[-1] == offset:
            flat[-1] += 1
        else:
            flat += (offset, offset + 1)
    return flat


def monitor_messages(
    c: Chooser, world: World, ref: PartitionRef, begin: float, gaps: list[tuple[int, int]]
) -> list[Sent]:
    """What the monitor sends about one partition, from the moment on at which it was told to read it."""
    log = world.logs[ref]
    pace = Pace(_asks(world, log.high_watermark, begin, float(c.integer(1, 4))))
    position = world.start_offset(ref)
    sent = []
    for at in _moments(c, world, begin):
        upto = _next_stop(c, position, log.high_watermark(at), at >= world.ended_at + ALL_READ_AFTER_S)
        unread = _clip(gaps, position, upto)
        message = sightings(log, position, upto, unread, at, *pace.reached(upto, at))
        sent.append(Sent(at, message))
        position = upto
    return sent


def sightings(
    log: Log, low: int, high: int, unread: list[int], at: float, as_of: float, end_offset: int, outage_from: float
) -> Sightings:
    """The batch [low, high) of a log, as a monitor tells it."""
    hidden = {o for i in range(0, len(unread), 2) for o in range(unread[i], unread[i + 1])}
    read = [(o, log.records[o]) for o in range(low, high) if o not in hidden and not log.records[o].control]
    events = [(o, r.content, r) for o, r in read if r.content is not None]
    table = sorted({content.signature for _, content, _ in events}, key=repr)
    results = {"ok": len(events), "foreign": len(read) - len(events), "gap": len(hidden)}
    return Sightings(
        topic=log.ref.topic,
        partition=log.ref.partition,
        incarnation=log.ref.incarnation,
        to_offset=high,
        read_at=at,
        as_of=as_of,
        low_timestamp=min((r.record_ts for _, r in read), default=0.0),
        signatures=[tuple(s) for s in table],  # type: ignore[misc]
        offsets=[o for o, _, _ in events],
        txn_ids=[content.txn_id for _, content, _ in events],
        signature_indexes=[table.index(content.signature) for _, content, _ in events],
        timestamps=[content.ts for _, content, _ in events],
        record_timestamps=[r.record_ts for _, _, r in events],
        gaps=unread,
        results={result: count for result, count in results.items() if count},
        end_offset=end_offset,
        outage_from=outage_from,
    )


def validator_messages(
    c: Chooser,
    world: World,
    ref: PartitionRef,
    begin: float,
    gaps: list[tuple[int, int]],
    skips: list[tuple[int, int]],
) -> list[Sent]:
    """What the validator sends about one partition. Where it skips, its next range begins later than its last ended."""
    log = world.logs[ref]
    pace = Pace(_asks(world, log.last_stable_offset, begin, float(c.integer(1, 4))))
    position = world.start_offset(ref)
    sent = []
    for at in _moments(c, world, begin):
        upto = _next_stop(c, position, log.last_stable_offset(at), at >= world.ended_at + ALL_READ_AFTER_S)
        low = position
        while any(a <= low < b for a, b in skips) and low < upto:
            low += 1
        unread = _clip(gaps, low, upto)
        hidden = {o for i in range(0, len(unread), 2) for o in range(unread[i], unread[i + 1])}
        delivered = [o for o in range(low, upto) if log.records[o].delivered and o not in hidden]
        as_of, end_offset, _ = pace.reached(upto, at)
        coverage = Coverage(
            *(ref.topic, ref.partition, low, upto, at, as_of, runs(delivered), unread, end_offset),
            stable_offset=pace.reached_offset,
            incarnation=ref.incarnation,
        )
        sent.append(Sent(at, coverage))
        position = upto
    return sent


def discoveries(c: Chooser, world: World, since: float = BEGIN - 1) -> list[Sent]:
    """What the scout found, from time to time. A recreated topic is seen at one look, and begun at the next."""
    sent = []
    known: set[PartitionRef] = set()
    seen_ids: dict[str, str] = {}
    moments = [since]
    while moments[-1] < world.ended_at:
        moments.append(moments[-1] + pick(c, (10.0, 3.0, 30.0)))
    for at in [*moments, max(since, world.ended_at + LAST_ASK_AFTER_S)]:
        if any(o.began <= at < o.ended for o in world.outages):
            continue
        refs = [p for p in world.logs if world.is_there(p, at)]
        ids = {p.topic: f"{p.topic}-{p.incarnation}" for p in refs}
        anew = [topic for topic, topic_id in ids.items() if seen_ids.get(topic, topic_id) != topic_id]
        unsure = [topic for topic in anew if at < world.ended_at and chance(c, 80)]
        seen_ids.update(ids)
        present: dict[str, list[int]] = {}
        for ref in refs:
            present.setdefault(ref.topic, []).append(ref.partition)
        new = [p for p in refs if p not in known and p.topic not in unsure]
        found = [
            PartitionStart(
                p.topic, p.partition, world.start_offset(p), incarnation=p.incarnation, topic_id=ids[p.topic]
            )
            for p in new
        ]
        known.update(new)
        sent.append(Sent(at, Discovery(at, found, present, [], ids, not unsure)))
    return sent


# --- The wire ---------------------------------------------------------------------------------------------------------

Streams = list[list[Sent]]
"""Messages by reader and partition, each in order; the first stream is the discovery's."""


def ref_of(message: Message) -> PartitionRef | None:
    """The partition that a message is about."""
    return (
        None if isinstance(message, Discovery) else PartitionRef(message.topic, message.partition, message.incarnation)
    )


def read_world(c: Chooser, world: World, style: Style) -> Streams:
    """One way in which both views may read a world."""
    streams = [discoveries(c, world)]
    begins = _begins(world, streams[0])
    for ref, log in world.logs.items():
        if ref not in begins:
            continue  # deleted before the first look
        seen = _ranges(c, log, 12 if style.monitor_gaps else 0)
        missed = _ranges(c, log, 10)
        skipped = _ranges(c, log, 8)
        until = world.read_until(ref) + pick(c, (0.0, 20.0))
        for stream in (
            monitor_messages(c, world, ref, begins[ref], seen),
            validator_messages(c, world, ref, begins[ref], missed, skipped),
        ):
            streams.append([sent for sent in stream if sent.at < until])
    return streams


def _begins(world: World, discovered: list[Sent]) -> dict[PartitionRef, float]:
    """When both readers of a partition begin: once it was found, and not before the moment where to start."""
    begins: dict[PartitionRef, float] = {}
    for sent in discovered:
        assert isinstance(sent.message, Discovery)
        for found in sent.message.found:
            begins[PartitionRef(found.topic, found.partition, found.incarnation)] = max(BEGIN, sent.at, world.start_at)
    return begins


def reread(c: Chooser, world: World, streams: Streams, looked_at: float = 0.0) -> Streams:
    """Another way to read the same world, with the same offsets unreadable.

    `looked_at`: when the latest look at the cluster took place that the reading ledger has seen. An earlier one comes
    no more: it would show what was found since as gone, or a recreated topic as its predecessor.
    """
    again = [discoveries(c, world, since=max(BEGIN - 1, looked_at))]
    begins = _begins(world, again[0])
    for ref in world.logs:
        if ref not in begins:
            continue
        mine = [s.message for stream in streams for s in stream if ref_of(s.message) == ref]
        unseen = _pairs([m.gaps for m in mine if isinstance(m, Sightings)])
        missed = _pairs([m.gaps for m in mine if isinstance(m, Coverage)])
        ends = [(m.from_offset, m.to_offset) for m in mine if isinstance(m, Coverage)]
        starts = [world.start_offset(ref), *(to for _, to in ends)]
        skipped = [(to, begin) for to, (begin, _) in zip(starts, ends, strict=False) if begin > to]
        again.append(monitor_messages(c, world, ref, begins[ref], unseen))
        again.append(validator_messages(c, world, ref, begins[ref], missed + skipped, []))
    return again


def _pairs(flats: list[list[int]]) -> list[tuple[int, int]]:
    return [(flat[i], flat[i + 1]) for flat in flats for i in range(0, len(flat), 2)]


def resend(c: Chooser, streams: Streams) -> Streams:
    """The same streams with things told again: old messages, and some that overlap what was told and go beyond it."""
    return [streams[0], *(_resend(c, stream) for stream in streams[1:])]


def _resend(c: Chooser, stream: list[Sent]) -> list[Sent]:
    told: list[Sent] = []
    for i, sent in enumerate(stream):
        if told and chance(c, 25):
            told.append(Sent(sent.at, pick(c, told).message))
        if i and chance(c, 25):
            both = _joined(stream[i - 1].message, sent.message)
            if both is not None:
                told.append(Sent(sent.at, both))
        told.append(sent)
    return told


def _joined(one: Message, two: Message) -> Message | None:
    """Two messages as one, told when the first of them is known already."""
    if isinstance(one, Sightings) and isinstance(two, Sightings):
        shift = len(one.signatures)
        return msgspec.structs.replace(
            two,
            low_timestamp=min((m.low_timestamp for m in (one, two) if m.low_timestamp), default=0.0),
            signatures=one.signatures + two.signatures,
            offsets=one.offsets + two.offsets,
            txn_ids=one.txn_ids + two.txn_ids,
            signature_indexes=one.signature_indexes + [i + shift for i in two.signature_indexes],
            timestamps=one.timestamps + two.timestamps,
            record_timestamps=one.record_timestamps + two.record_timestamps,
            gaps=one.gaps + two.gaps,
        )
    if isinstance(one, Coverage) and isinstance(two, Coverage) and one.to_offset == two.from_offset:
        return msgspec.structs.replace(
            two, from_offset=one.from_offset, runs=_touching(one.runs, two.runs), gaps=_touching(one.gaps, two.gaps)
        )
    return None


def _touching(one: list[int], two: list[int]) -> list[int]:
    return one[:-1] + two[1:] if one and two and one[-1] == two[0] else one + two


ORDERS = ("as sent", "mixed", "monitor first", "validator first", "partition by partition", "backwards")


def arrive(c: Chooser, streams: Streams, order: str) -> list[Sent]:
    """One order of arrival that keeps each stream's own, and a partition's messages behind its discovery."""
    if order == "as sent":
        return sorted((sent for stream in streams for sent in stream), key=lambda sent: sent.at)
    if order == "mixed":
        return _merge(c, streams)
    ranked = sorted(range(len(streams)), key=lambda i: _rank(i, order))
    return [sent for i in ranked for sent in streams[i]]


def _rank(i: int, order: str) -> Any:
    """Streams alternate: discovery, then for each partition the monitor's and the validator's."""
    if i == 0:
        return (-2 * len(REFS), 0)
    validator, partition = (i - 1) % 2, (i - 1) // 2
    if order == "monitor first":
        return (validator, partition)
    if order == "validator first":
        return (1 - validator, partition)
    return (partition, validator) if order == "partition by partition" else (-partition, 1 - validator)


def _merge(c: Chooser, streams: Streams) -> list[Sent]:
    positions = [0] * len(streams)
    found: set[PartitionRef] = set()
    arrived: list[Sent] = []
    while True:
        ready = [
            i
            for i, stream in enumerate(streams)
            if positions[i] < len(stream) and (i == 0 or ref_of(stream[positions[i]].message) in found)
        ]
        if not ready:
            return arrived
        i = pick(c, ready)
        for _ in range(c.integer(1, 4)):
            if positions[i] < len(streams[i]):
                sent = streams[i][positions[i]]
                if isinstance(sent.message, Discovery):
                    found.update(PartitionRef(f.topic, f.partition, f.incarnation) for f in sent.message.found)
                arrived.append(sent)
                positions[i] += 1


def nows(arrived: list[Sent]) -> Iterator[tuple[float, Message]]:
    """Messages with the wall clock at their arrival: never before they were sent, never backwards."""
    now = 0.0
    for sent in arrived:
        now = max(now, sent.at)
        yield now, sent.message

"""Runs a scenario: flows start transactions, transactions run their operations, and noise is written beside them.

Each of them is a coroutine on the virtual loop. A flow owns a pool of producers. A transaction in flight has a producer
to itself, because a producer has only one open Kafka transaction and an abort hits everything in it. When the pool is
empty, the flow waits, so the pool bounds concurrency. A crashed producer is replaced by one with a new name.

A pause never ends within `margin_s` of the time at which its transaction would become idle or overdue, or its retry
late. Such a pause is moved to the edge of that band. So the jitter of a real replay cannot change the result.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import count
from random import Random
from typing import NamedTuple

from txninsightd.tools.simulation import kafkalog
from txninsightd.tools.simulation import scenario as s
from txninsightd.tools.simulation.delays import UNBOUNDED
from txninsightd.tools.simulation.evaluation import SETTLE_S
from txninsightd.tools.simulation.kafkalog import KafkaTransaction, Partition, Record
from txninsightd.tools.simulation.operations import (
    SHORTEST_PAUSE_S,
    Begin,
    End,
    FixTimestamp,
    Operation,
    Pause,
    PlanContext,
    PlannedEvent,
    ReplaceProducer,
    Write,
    operations_for,
    plan,
)
from txninsightd.tools.simulation.output import (
    ControlLine,
    EventEncoder,
    EventFields,
    Lines,
    RecordLine,
    noise_of,
    partition_of,
    raw_text,
)
from txninsightd.tools.simulation.truth import Trace, Truth
from txninsightd.tools.simulation.validation_errors import BadScenario
from txninsightd.vocabulary import Kind

EDGE_S = 0.05
"""How far beyond the margin a pause is moved: it must not end on the exact edge of borderline."""

Band = tuple[float, float]


def avoid_bands(target: float, earliest: float, bands: Iterable[Band]) -> float:
    """A time near `target`, not before `earliest`, outside all bands."""
    # In ascending order: the upper end of one band may lie in the next.
    for low, high in sorted(bands):
        if low < target < high:
            target = low if low >= earliest and target - low <= high - target else high
    return target


class Limits(NamedTuple):
    """Limits of a run: virtual seconds of arrivals, and transactions in all. None: no limit."""

    duration_s: float | None
    transactions: int | None


class Simulation:
    """The state of a run: the clock, the log, the lines and the truth."""

    def __init__(self, scenario: s.Scenario, seed: int, limits: Limits, lines: Lines, truth: Truth) -> None:
        self.scenario = scenario
        self.seed = seed
        self.limits = limits
        self.lines = lines
        self.truth = truth
        self.started = 0
        self._loop = asyncio.get_running_loop()
        self._since_start = -1.0
        self._now = 0.0
        self._partitions = {
            name: [Partition(name, i) for i in range(topic.partitions)] for name, topic in scenario.topics.items()
        }
        self._encoders = {name: EventEncoder(topic) for name, topic in scenario.topics.items()}

    def now(self) -> float:
        """The virtual time in epoch seconds, rounded to microseconds."""
        since_start = self._loop.time()
        if since_start != self._since_start:
            self._since_start = since_start
            self._now = round(self.scenario.epoch + since_start, 6)
        return self._now

    def random(self, *names: object) -> Random:
        """A separate random stream for these names."""
        return Random(":".join(map(str, (self.seed, *names))))

    def may_start(self) -> bool:
        """Whether one more transaction may begin; counts it if so."""
        if self.limits.transactions is not None and self.started >= self.limits.transactions:
            return False
        self.started += 1
        return True

    def _partition(self, topic: str, key: str) -> Partition:
        partitions = self._partitions[topic]
        return partitions[partition_of(key, len(partitions))]

    def write(
        self, producer: str, kafka: KafkaTransaction | None, trace: Trace, event: PlannedEvent, ts: float
    ) -> Record:
        """Append an event to its partition and write its line."""
        now = self.now()
        partition = self._partition(event.topic, trace.txn_id)
        future = ts > now + self.scenario.rules.future_tolerance_s
        # The line has the original ts. The daemon clamps it, so the truth does too.
        record = Record(trace, event.kind, event.step, event.status, now if future else ts, now, future, kafka)
        line = RecordLine(now, event.topic, partition.index, trace.txn_id, producer)
        fields = EventFields(event.kind, trace.txn_id, ts, trace.txn_type, event.step, event.status)
        self._encoders[event.topic].encode_into(line, fields)
        self.lines.put(line)
        trace.add(record)
        self.truth.totals.record(event.topic, "ok")
        partition.append(record, now)
        return record

    def write_noise(self, producer: str, topic: str, word: str, key: str) -> None:
        """Append a record that is not one of our events."""
        result, value = noise_of(word, self.scenario.value_bytes)
        partition = self._partition(topic, key)
        partition.append_foreign()
        self.truth.totals.record(topic, result)
        self.lines.put(RecordLine(self.now(), topic, partition.index, key, producer, raw=raw_text(value)))

    def control(self, producer: str, word: str) -> None:
        """Write a control line."""
        self.truth.totals.kafka[word] += 1
        self.lines.put(ControlLine(self.now(), producer, word))

    def abandon(self, kafka: KafkaTransaction) -> None:
        """A producer died: the broker aborts its open transaction, at its first check after the time-out."""
        # The broker does not know a transaction without records.
        if kafka.began_at is None:
            return
        # The middle of the broker's check interval; the real check is up to half an interval away.
        slack = self.scenario.timeout_check_s / 2
        at = kafka.began_at - self.scenario.epoch + self.scenario.transaction_timeout_s + slack
        self.truth.hanging[kafka] = at + self.scenario.epoch
        self._loop.call_at(at, self._time_out, kafka, slack)

    def _time_out(self, kafka: KafkaTransaction, slack: float) -> None:
        del self.truth.hanging[kafka]
        kafkalog.end(kafka, "abort", self.now(), slack)


class Pool:
    """A flow's producers. `acquire` waits for a free one; `concurrent` transactions share plain producers."""

    def __init__(self, flow: str, kafka: s.Kafka) -> None:
        places = kafka.concurrent or kafka.producers
        self._flow = flow
        self._free = deque(f"{flow}-{i % kafka.producers:02d}" for i in range(places))
        self._waiting: asyncio.Future[None] | None = None
        self._generation = 1

    async def acquire(self) -> str:
        """Wait for a free producer and take it."""
        while not self._free:
            # One waiter is enough: only the flow acquires.
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._free.popleft()

    def release(self, producer: str) -> None:
        """Return a producer to the pool."""
        self._free.append(producer)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def replace(self, dead: str) -> str:
        """A new producer in place of a dead one."""
        self._generation += 1
        # A new name: with the same transactional.id it would abort the dead producer's open transaction.
        return f"{dead.split('~')[0]}~{self._generation}"


class Transaction:
    """Runs the operations of one business transaction."""

    def __init__(self, simulation: Simulation, pool: Pool, producer: str, trace: Trace) -> None:
        self._simulation = simulation
        self._pool = pool
        self._producer = producer
        self._another = f"{producer.rpartition('-')[0]}-late"
        self._trace = trace
        self._kafka: KafkaTransaction | None = None
        self._stamps: dict[int, float] = {}
        self._idle_at = 0.0
        self._overdue_at = UNBOUNDED
        self._calm_until = UNBOUNDED
        self._aborted_at = 0.0
        idle, overdue, _ = simulation.scenario.thresholds(trace.txn_type)
        self._idle_after_s = idle
        self._overdue_after_s = overdue

    async def run(self, operations: list[Operation]) -> None:
        """Run all operations, then release the producer."""
        for operation in operations:
            match operation:
                case Pause():
                    await self._pause(operation)
                case Write():
                    self._write(operation)
                case Begin():
                    self._kafka = KafkaTransaction()
                    self._simulation.control(self._producer, "begin")
                case End():
                    self._end(operation.word)
                case FixTimestamp():
                    self._stamps[operation.event.slot] = self._simulation.now()
                case ReplaceProducer():
                    self._producer = self._pool.replace(self._producer)
        self._pool.release(self._producer)
        self._trace.all_written()

    async def _pause(self, pause: Pause) -> None:
        now = self._simulation.now()
        target = now + pause.seconds
        # Most pauses end far from any threshold and stay as drawn.
        if pause.since_abort or target > self._calm_until:
            target = avoid_bands(target, now + SHORTEST_PAUSE_S, self._bands(pause))
        await asyncio.sleep(target - now)

    def _bands(self, pause: Pause) -> Iterator[Band]:
        margin = self._simulation.scenario.margin_s + EDGE_S
        if self._calm_until < UNBOUNDED:
            for threshold in (self._idle_at, self._overdue_at):
                yield threshold - margin, threshold + margin
        if pause.since_abort:
            grace_ends = self._aborted_at + self._simulation.scenario.rules.retry_grace_s
            yield grace_ends - margin, grace_ends + SETTLE_S + margin

    def _note_thresholds(self, record: Record) -> None:
        """Update when a pause may end too near a threshold: between the open and the close only."""
        margin = self._simulation.scenario.margin_s + EDGE_S
        self._idle_at = max(self._idle_at, max(record.ts, record.at) + self._idle_after_s)
        if record.kind == Kind.TRANSACTION_OPEN:
            self._overdue_at = record.ts + self._overdue_after_s
            self._calm_until = 0.0
        elif record.kind == Kind.TRANSACTION_CLOSE:
            self._calm_until = UNBOUNDED
        if self._calm_until < UNBOUNDED:
            self._calm_until = min(self._idle_at, self._overdue_at) - margin

    def _write(self, write: Write) -> None:
        now = self._simulation.now()
        event = write.event
        ts = round(now + write.skew_s, 6) if write.skew_s else now
        if write.again:
            ts = self._stamps.get(event.slot, ts)
        self._stamps[event.slot] = ts
        producer, kafka = (self._another, None) if write.by_another else (self._producer, self._kafka)
        record = self._simulation.write(producer, kafka, self._trace, event, ts)
        self._note_thresholds(record)

    def _end(self, word: str) -> None:
        kafka, self._kafka = self._kafka, None
        assert kafka is not None, "End without Begin"
        self._check_age(kafka)
        self._simulation.control(self._producer, word)
        if word == "crash":
            self._simulation.abandon(kafka)
            self._producer = self._pool.replace(self._producer)
            return
        if word == "abort":
            self._aborted_at = self._simulation.now()
        kafkalog.end(kafka, word, self._simulation.now())

    def _check_age(self, kafka: KafkaTransaction) -> None:
        age = self._simulation.now() - (kafka.began_at or self._simulation.now())
        limit = self._simulation.scenario.transaction_timeout_s
        if age > limit - self._simulation.scenario.margin_s:
            raise BadScenario(
                [
                    f"{self._trace.txn_id}: its Kafka transaction was open for {age:.1f} s, the broker would abort it "
                    f"after {limit:g} s: raise transaction_timeout_s, or shorten the type's steps"
                ]
            )


def _deal(mix: dict[str, int], rng: Random) -> Iterator[str | None]:
    """Deal failures from a deck that is shuffled when empty: each deck holds the exact number of each failure."""
    deck: list[str | None] = [None if name == "healthy" else name for name, n in mix.items() for _ in range(n)]
    while True:
        rng.shuffle(deck)
        yield from deck


async def arrivals(simulation: Simulation, when: s.Arrivals, rng: Random) -> AsyncIterator[int]:
    """Yield arrivals 0, 1, ... at their times. A slow consumer makes the next ones late, not fewer."""
    until = UNBOUNDED if when.until_s is None else when.until_s
    if when.until_s is None and simulation.limits.duration_s is not None:
        until = simulation.limits.duration_s
    due = when.from_s
    for n in count() if when.count is None else range(when.count):
        due += rng.expovariate(when.rate_per_s)
        if due >= until:
            return
        await asyncio.sleep(max(due - asyncio.get_running_loop().time(), 0.0))
        yield n


async def run_flow(simulation: Simulation, name: str, flow: s.Flow, group: asyncio.TaskGroup) -> None:
    """Start a flow's transactions at its arrivals, when its pool has a free producer."""
    rng = simulation.random("flow", name)
    pool = Pool(name, flow.kafka)
    deck = _deal(flow.mix, rng)
    types, weights = list(flow.types), list(flow.types.values())
    async for n in arrivals(simulation, flow.arrivals, rng):
        producer = await pool.acquire()
        if not simulation.may_start():
            return
        txn_type = rng.choices(types, weights)[0]
        trace = simulation.truth.begin(f"{name}-{simulation.seed}-{n:05d}", txn_type, next(deck))
        # A separate stream: other transactions' draws do not affect it.
        operations = _operations_of(simulation, flow, trace, simulation.random("transaction", name, n))
        group.create_task(Transaction(simulation, pool, producer, trace).run(operations))


def _operations_of(simulation: Simulation, flow: s.Flow, trace: Trace, rng: Random) -> list[Operation]:
    failure = None if trace.failure is None else simulation.scenario.failures[trace.failure]
    events = plan(simulation.scenario.types[trace.txn_type], rng)
    context = PlanContext(
        events, flow.kafka.per, rng, flow.kafka.commit_after_s, simulation.scenario.rules.retry_grace_s
    )
    return operations_for(context, failure)


async def run_noise(simulation: Simulation, name: str, noise: s.Noise) -> None:
    """Write noise records, each kind in turn."""
    async for n in arrivals(simulation, noise.arrivals, simulation.random("noise", name)):
        word = noise.records[n % len(noise.records)]
        simulation.write_noise(name, noise.topic, word, f"{name}-{n}")


async def run_scenario(scenario: s.Scenario, seed: int, limits: Limits, lines: Lines, truth: Truth) -> None:
    """Run a whole scenario: write every line to `lines`, in the order of `at`, and the results to `truth`."""
    simulation = Simulation(scenario, seed, limits, lines, truth)
    lines.header(scenario, seed)
    noise = [asyncio.ensure_future(run_noise(simulation, name, noise)) for name, noise in scenario.noise.items()]
    async with asyncio.TaskGroup() as group:
        for name, flow in scenario.flows.items():
            group.create_task(run_flow(simulation, name, flow, group))
    # Without a duration, noise lasts as long as the flows.
    if limits.duration_s is None:
        for task in noise:
            task.cancel()
    await asyncio.gather(*noise, return_exceptions=limits.duration_s is None)
    ends_at = lines.last_at + scenario.observe_after_s
    await asyncio.sleep(max(ends_at - simulation.now(), 0.0))
    truth.close(ends_at)

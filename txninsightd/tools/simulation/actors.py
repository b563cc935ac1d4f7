"""The actors: flows that start transactions, transactions that play their scripts, and noise.

Each is a coroutine on the virtual loop. A flow owns a pool of producers; a transaction in flight has one to itself,
because a producer can have only one Kafka transaction open and an abort hits all that is in it. When the pool is empty,
the flow waits: the pool is the bound of concurrency. A producer that crashed is replaced by one with a fresh name.

A pause never ends within `margin_s` of a moment at which its transaction would become idle or overdue, or its retry
late: it is moved to the edge of that band, so that the jitter of a real replay cannot change what is passed through.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import count
from random import Random
from typing import NamedTuple

from txninsightd.tools.simulation import kafkalog
from txninsightd.tools.simulation import scenario as s
from txninsightd.tools.simulation.complaints import BadScenario
from txninsightd.tools.simulation.delays import UNBOUNDED
from txninsightd.tools.simulation.kafkalog import KafkaTransaction, Partition, Record
from txninsightd.tools.simulation.output import (
    ControlLine,
    Lines,
    RecordLine,
    Said,
    Shape,
    noise_of,
    partition_of,
    raw_text,
)
from txninsightd.tools.simulation.scripts import (
    SHORTEST_PAUSE_S,
    Begin,
    End,
    Operation,
    Part,
    Pause,
    Planned,
    Replace,
    Stamp,
    Write,
    plan,
    script_for,
)
from txninsightd.tools.simulation.telling import SETTLE_S
from txninsightd.tools.simulation.truth import Story, Truth
from txninsightd.vocabulary import Kind

EDGE_S = 0.05
"""How far beyond the margin a pause is moved, so that it does not end on the very edge of borderline."""

Band = tuple[float, float]


def clear_of(target: float, earliest: float, bands: Iterable[Band]) -> float:
    """A moment near `target`, not before `earliest`, that lies in none of the bands."""
    # Rising: who leaves one band at its upper end may be in the next.
    for low, high in sorted(bands):
        if low < target < high:
            target = low if low >= earliest and target - low <= high - target else high
    return target


class Limits(NamedTuple):
    """How much is played: virtual seconds of arrivals, and transactions in all. None: no such limit."""

    duration_s: float | None
    transactions: int | None


class World:
    """What all actors share: the clock, the log, the lines and the truth."""

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
        self._shapes = {name: Shape(topic) for name, topic in scenario.topics.items()}

    def now(self) -> float:
        """The virtual moment, in epoch seconds, whole microseconds."""
        since_start = self._loop.time()
        if since_start != self._since_start:
            self._since_start = since_start
            self._now = round(self.scenario.epoch + since_start, 6)
        return self._now

    def random(self, *names: object) -> Random:
        """A random stream of its own for whoever is named."""
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

    def write(self, producer: str, kafka: KafkaTransaction | None, story: Story, event: Planned, ts: float) -> Record:
        """Append an event to its partition, and write its line."""
        now = self.now()
        partition = self._partition(event.topic, story.txn_id)
        future = ts > now + self.scenario.rules.future_tolerance_s
        # The line says the ts as it was given; what the daemon makes of it, and so the truth, is clamped.
        record = Record(story, event.kind, event.step, event.status, now if future else ts, now, future, kafka)
        line = RecordLine(now, event.topic, partition.index, story.txn_id, producer)
        said = Said(event.kind, story.txn_id, ts, story.txn_type, event.step, event.status)
        self._shapes[event.topic].fill(line, said)
        self.lines.put(line)
        story.add(record)
        self.truth.totals.record(event.topic, "ok")
        partition.append(record, now)
        return record

    def write_noise(self, producer: str, topic: str, word: str, key: str) -> None:
        """Append a record that is no event of ours."""
        result, value = noise_of(word, self.scenario.value_bytes)
        partition = self._partition(topic, key)
        partition.append_foreign()
        self.truth.totals.record(topic, result)
        self.lines.put(RecordLine(self.now(), topic, partition.index, key, producer, raw=raw_text(value)))

    def control(self, producer: str, word: str) -> None:
        """Write a control line."""
        self.truth.totals.kafka[word] += 1
        self.lines.put(ControlLine(self.now(), producer, word))

    def hang(self, kafka: KafkaTransaction) -> None:
        """A producer died: the broker aborts what it left open, at its next look after the time-out."""
        # Nothing was written in it, so the broker knows of nothing to end.
        if kafka.began_at is None:
            return
        # In the middle of the broker's round: it may look half a round earlier or later.
        slack = self.scenario.timeout_check_s / 2
        at = kafka.began_at - self.scenario.epoch + self.scenario.transaction_timeout_s + slack
        self.truth.hanging[kafka] = at + self.scenario.epoch
        self._loop.call_at(at, self._time_out, kafka, slack)

    def _time_out(self, kafka: KafkaTransaction, slack: float) -> None:
        del self.truth.hanging[kafka]
        kafkalog.end(kafka, "abort", self.now(), slack)


class Pool:
    """A flow's producers. `take` waits for a free one; plain ones are shared by `concurrent` transactions."""

    def __init__(self, flow: str, kafka: s.Kafka) -> None:
        places = kafka.concurrent or kafka.producers
        self._flow = flow
        self._free = deque(f"{flow}-{i % kafka.producers:02d}" for i in range(places))
        self._waiting: asyncio.Future[None] | None = None
        self._lives = 1

    async def take(self) -> str:
        """A producer of one's own."""
        while not self._free:
            # One is enough: nobody but the flow itself takes.
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._free.popleft()

    def give_back(self, producer: str) -> None:
        """It is free again."""
        self._free.append(producer)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def replace(self, dead: str) -> str:
        """A new producer in the place of a dead one."""
        self._lives += 1
        # A name of its own: with the dead one's transactional.id it would end what that one left hanging.
        return f"{dead.split('~')[0]}~{self._lives}"


class Transaction:
    """One business transaction, playing its script."""

    def __init__(self, world: World, pool: Pool, producer: str, story: Story) -> None:
        self._world = world
        self._pool = pool
        self._producer = producer
        self._another = f"{producer.rpartition('-')[0]}-late"
        self._story = story
        self._kafka: KafkaTransaction | None = None
        self._stamps: dict[int, float] = {}
        self._idle_at = 0.0
        self._overdue_at = UNBOUNDED
        self._calm_until = UNBOUNDED
        self._aborted_at = 0.0
        idle, overdue, _ = world.scenario.thresholds(story.txn_type)
        self._idle_after_s = idle
        self._overdue_after_s = overdue

    async def play(self, script: list[Operation]) -> None:
        """Do everything, then give the producer back."""
        for operation in script:
            match operation:
                case Pause():
                    await self._pause(operation)
                case Write():
                    self._write(operation)
                case Begin():
                    self._kafka = KafkaTransaction()
                    self._world.control(self._producer, "begin")
                case End():
                    self._end(operation.word)
                case Stamp():
                    self._stamps[operation.event.slot] = self._world.now()
                case Replace():
                    self._producer = self._pool.replace(self._producer)
        self._pool.give_back(self._producer)
        self._story.all_written()

    async def _pause(self, pause: Pause) -> None:
        now = self._world.now()
        target = now + pause.seconds
        # Most pauses end before anything is near, and stay as they were drawn.
        if pause.since_abort or target > self._calm_until:
            target = clear_of(target, now + SHORTEST_PAUSE_S, self._bands(pause))
        await asyncio.sleep(target - now)

    def _bands(self, pause: Pause) -> Iterator[Band]:
        margin = self._world.scenario.margin_s + EDGE_S
        if self._calm_until < UNBOUNDED:
            for threshold in (self._idle_at, self._overdue_at):
                yield threshold - margin, threshold + margin
        if pause.since_abort:
            grace_ends = self._aborted_at + self._world.scenario.rules.retry_grace_s
            yield grace_ends - margin, grace_ends + SETTLE_S + margin

    def _look_ahead(self, record: Record) -> None:
        """From when on a pause may end too near a threshold: never before its open, nor once its close is written."""
        margin = self._world.scenario.margin_s + EDGE_S
        self._idle_at = max(self._idle_at, max(record.ts, record.at) + self._idle_after_s)
        if record.kind == Kind.TRANSACTION_OPEN:
            self._overdue_at = record.ts + self._overdue_after_s
            self._calm_until = 0.0
        elif record.kind == Kind.TRANSACTION_CLOSE:
            self._calm_until = UNBOUNDED
        if self._calm_until < UNBOUNDED:
            self._calm_until = min(self._idle_at, self._overdue_at) - margin

    def _write(self, write: Write) -> None:
        now = self._world.now()
        event = write.event
        ts = round(now + write.skew_s, 6) if write.skew_s else now
        if write.again:
            ts = self._stamps.get(event.slot, ts)
        self._stamps[event.slot] = ts
        producer, kafka = (self._another, None) if write.by_another else (self._producer, self._kafka)
        record = self._world.write(producer, kafka, self._story, event, ts)
        self._look_ahead(record)

    def _end(self, word: str) -> None:
        kafka, self._kafka = self._kafka, None
        assert kafka is not None, "an end without a begin"
        self._check_age(kafka)
        self._world.control(self._producer, word)
        if word == "crash":
            self._world.hang(kafka)
            self._producer = self._pool.replace(self._producer)
            return
        if word == "abort":
            self._aborted_at = self._world.now()
        kafkalog.end(kafka, word, self._world.now())

    def _check_age(self, kafka: KafkaTransaction) -> None:
        age = self._world.now() - (kafka.began_at or self._world.now())
        limit = self._world.scenario.transaction_timeout_s
        if age > limit - self._world.scenario.margin_s:
            raise BadScenario(
                [
                    f"{self._story.txn_id}: its Kafka transaction was open for {age:.1f} s, the broker would abort it "
                    f"after {limit:g} s: raise transaction_timeout_s, or shorten the type's steps"
                ]
            )


def _deal(mix: dict[str, int], rng: Random) -> Iterator[str | None]:
    """Deal failures from a shuffled deck, for ever: every so many transactions hold exactly so many of each."""
    deck: list[str | None] = [None if name == "healthy" else name for name, n in mix.items() for _ in range(n)]
    while True:
        rng.shuffle(deck)
        yield from deck


async def arrivals(world: World, when: s.Arrivals, rng: Random) -> AsyncIterator[int]:
    """Number arrivals 0, 1, ... as they come. Who takes long with one makes the next ones late, not fewer."""
    until = UNBOUNDED if when.until_s is None else when.until_s
    if when.until_s is None and world.limits.duration_s is not None:
        until = world.limits.duration_s
    due = when.from_s
    for n in count() if when.count is None else range(when.count):
        due += rng.expovariate(when.rate_per_s)
        if due >= until:
            return
        await asyncio.sleep(max(due - asyncio.get_running_loop().time(), 0.0))
        yield n


async def run_flow(world: World, name: str, flow: s.Flow, group: asyncio.TaskGroup) -> None:
    """Start a flow's transactions, one after the other, as its arrivals say and its pool allows."""
    rng = world.random("flow", name)
    pool = Pool(name, flow.kafka)
    deck = _deal(flow.mix, rng)
    types, weights = list(flow.types), list(flow.types.values())
    async for n in arrivals(world, flow.arrivals, rng):
        producer = await pool.take()
        if not world.may_start():
            return
        txn_type = rng.choices(types, weights)[0]
        story = world.truth.begin(f"{name}-{world.seed}-{n:05d}", txn_type, next(deck))
        # A stream of its own: what others draw changes nothing of it.
        script = _script(world, flow, story, world.random("transaction", name, n))
        group.create_task(Transaction(world, pool, producer, story).play(script))


def _script(world: World, flow: s.Flow, story: Story, rng: Random) -> list[Operation]:
    failure = None if story.failure is None else world.scenario.failures[story.failure]
    events = plan(world.scenario.types[story.txn_type], rng)
    part = Part(events, flow.kafka.per, rng, flow.kafka.commit_after_s, world.scenario.rules.retry_grace_s)
    return script_for(part, failure)


async def run_noise(world: World, name: str, noise: s.Noise) -> None:
    """Write noise, each kind in its turn."""
    async for n in arrivals(world, noise.arrivals, world.random("noise", name)):
        word = noise.records[n % len(noise.records)]
        world.write_noise(name, noise.topic, word, f"{name}-{n}")


async def play(scenario: s.Scenario, seed: int, limits: Limits, lines: Lines, truth: Truth) -> None:
    """Play a whole scenario: every line goes to `lines`, in the order of `at`, and what it comes to, to `truth`."""
    world = World(scenario, seed, limits, lines, truth)
    lines.header(scenario, seed)
    noise = [asyncio.ensure_future(run_noise(world, name, noise)) for name, noise in scenario.noise.items()]
    async with asyncio.TaskGroup() as group:
        for name, flow in scenario.flows.items():
            group.create_task(run_flow(world, name, flow, group))
    # Without a duration, noise lasts as long as the flows.
    if limits.duration_s is None:
        for task in noise:
            task.cancel()
    await asyncio.gather(*noise, return_exceptions=limits.duration_s is None)
    ends_at = lines.last_at + scenario.observe_after_s
    await asyncio.sleep(max(ends_at - world.now(), 0.0))
    truth.close(ends_at)

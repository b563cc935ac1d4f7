"""What is measured: the variants, and the events that fill their topics.

A variant keeps a number of business transactions open at a time; each event belongs to one of them, drawn at random
with a fixed seed. Half of the transactions have two steps and half have three, with an open and a close around them:
6 or 8 events, 7 in the mean. A record's value has some 130 bytes, a fifth of which the daemon has no use for. All of
a transaction's events have its txn_id as their key and come from one producer. Events are stamped 1 ms apart, in the
order in which they are written, so that a backlog looks like one that took its time to grow.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

PRODUCERS = 8
EVENT_EVERY_S = 0.001
EVENTS_A_TRANSACTION = 7
TYPES = ("checkout", "refund", "subscription")
STEPS = ("payment", "stock", "shipping")


@dataclass(frozen=True)
class Variant:
    """One thing to measure. `topics` share the steps and, beyond one, split a transaction over partitions.

    `records_a_commit`: records in one Kafka transaction. `aborted_every`: of each producer's Kafka transactions every
    n-th is aborted and its records are written again (0: none). `closes` False: transactions end after their first
    step and a half, and stay open for ever. `data_of`: the variant whose topics are read, if not its own.
    """

    name: str
    what: str
    events: int
    open_at_once: int = 500
    records_a_commit: int = 100
    topics: int = 1
    partitions: int = 6
    aborted_every: int = 0
    closes: bool = True
    colocated: bool = False
    data_of: str = ""

    @property
    def transactions(self) -> int:
        """How many business transactions the events make up."""
        return self.events // (EVENTS_A_TRANSACTION if self.closes else len(UNFINISHED))

    @property
    def records(self) -> int:
        """How many records of the topics stand: as many as `events`, or a few less."""
        return sum(len(self.plan(number)) for number in range(self.transactions))

    def plan(self, number: int) -> "Plan":
        """What happens in one transaction: kinds and steps."""
        return PLANS[number % len(PLANS)] if self.closes else UNFINISHED

    def topic(self, step: str | None) -> int:
        """Which of the topics carries the events of a step; opens and closes are in the first."""
        return 0 if step is None else (STEPS.index(step) + 1) % self.topics


class Event(NamedTuple):
    """One record to be: `at` in epoch seconds, `topic` the number of the variant's topic."""

    number: int
    topic: int
    at: float
    key: str
    value: str


Plan = tuple[tuple[str, str | None], ...]


def _plan(steps: int) -> Plan:
    middle = ((kind, step) for step in STEPS[:steps] for kind in ("step_open", "step_done"))
    return (("transaction_open", None), *middle, ("transaction_close", None))


PLANS = (_plan(2), _plan(3))
UNFINISHED: Plan = PLANS[0][:4]


def events(variant: Variant, first_at: float) -> Iterator[Event]:
    """All events of a variant, in order; the same for the same variant and `first_at`."""
    rng = Random(variant.name)
    total, at, started = variant.transactions, first_at, 0
    running: list[tuple[int, Iterator[tuple[str, str | None]]]] = []
    while True:
        while len(running) < variant.open_at_once and started < total:
            running.append((started, iter(variant.plan(started))))
            started += 1
        if not running:
            return
        slot = rng.randrange(len(running))
        number, plan = running[slot]
        following = next(plan, None)
        if following is None:
            running[slot] = running[-1]
            running.pop()
            continue
        yield _event(variant, number, *following, at)
        at += EVENT_EVERY_S


def _event(variant: Variant, number: int, kind: str, step: str | None, at: float) -> Event:
    txn_id = f"order-{number:010d}"
    ours = f'"event":"{kind}","txn_id":"{txn_id}","ts":{at:.3f},"txn_type":"{TYPES[number % len(TYPES)]}"'
    if step is not None:
        ours += f',"step":"{step}"'
    elif kind == "transaction_close":
        ours += ',"status":"ok"'
    return Event(number, variant.topic(step), at, txn_id, f'{{{ours},"host":"web-{number % 40:02d}","amount":12.50}}')


MAIN = Variant("main", "one topic of 6 partitions, 500 open at a time, 100 records a Kafka transaction", 2_000_000)

VARIANTS = (
    MAIN,
    Variant("colocated", "the same, with `events.colocated: true`", MAIN.events, colocated=True, data_of=MAIN.name),
    Variant(
        "three-topics", "3 topics of 2 partitions, opens and closes apart from steps", 700_000, topics=3, partitions=2
    ),
    Variant("many-open", "50,000 open at a time", 1_000_000, open_at_once=50_000),
    Variant("aborts", "every 20th Kafka transaction aborted and written again", 700_000, aborted_every=20),
    Variant("single", "one record a Kafka transaction", 70_000, records_a_commit=1),
)

NEVER_CLOSED = Variant("never-closed", "4 events each, then silence", 800_000, open_at_once=5_000, closes=False)

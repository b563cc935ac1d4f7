"""What the ledger reports: one value for each transition, in the order in which they arose (limits come last).

The ledger decides and returns facts; sinks (sinks.py) fold them into counters, gauges and logs. A fact arises once for
each transition of a transaction or once for each message, never for each step, so the inner loop over events pays
nothing. Facts carry what events say as it is: the cardinality of labels is bounded where labels are made (labels.py).
"""

from collections import Counter

import msgspec

from txninsightd.core.finished import Finished
from txninsightd.core.life_key import LifeKey
from txninsightd.core.transaction import Standing
from txninsightd.vocabulary import Cause, PartitionStart


class Opened(msgspec.Struct, frozen=True, gc=False):
    """An open event of this life was seen, for the first time."""

    txn_type: str | None


class StandingChanged(msgspec.Struct, frozen=True, gc=False):
    """A live transaction stands elsewhere in the gauges. None: no gauge counts it (not yet, or not any longer)."""

    before: Standing | None
    after: Standing | None


class StuckChanged(msgspec.Struct, frozen=True, gc=False):
    """A transaction became stuck, changed its cause, or is no longer stuck (`cause` None).

    `since`: the moment at which the threshold was passed; `noticed_at`: the clock when the ledger found it.
    `is_new` is false for what was stuck before both views had caught up for the first time, for what is stuck again
    after only an outage or a step of the clock had taken it back, and for what is no longer stuck.
    """

    txn_id: str
    txn_type: str | None
    before: Cause | None
    cause: Cause | None
    since: float
    noticed_at: float
    is_new: bool


class Settled(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a life is final. `key` is its idempotency key; `missed_objective`: it took longer than wanted."""

    finished: Finished
    key: LifeKey
    missed_objective: bool


class EventsLate(msgspec.Struct, frozen=True, gc=False):
    """So many events of one message belong to transactions that were settled before."""

    count: int


class LimitHit(msgspec.Struct, frozen=True, gc=False):
    """A limit (by its key in the config) took effect so many times."""

    limit: str
    count: int


class RecordsRead(msgspec.Struct, frozen=True, gc=False):
    """What became of the records of one message: how many by result (RecordResult)."""

    view: str
    topic: str
    results: dict[str, int]


class PartitionsFound(msgspec.Struct, frozen=True, gc=False):
    """These partitions are to be read from now on, each from its start offset."""

    starts: list[PartitionStart]


Fact = Opened | StandingChanged | StuckChanged | Settled | EventsLate | LimitHit | RecordsRead | PartitionsFound


class FactBuffer:
    """Facts of one call of the ledger. The ledger's parts write here; the call returns what has come together."""

    def __init__(self) -> None:
        self._facts: list[Fact] = []
        self._limit_hits: Counter[str] = Counter()
        self.add = self._facts.append

    def limit_hit(self, limit: str, count: int = 1) -> None:
        """A limit took effect. The hits of one call become one fact for each limit."""
        self._limit_hits[limit] += count

    def take(self) -> list[Fact]:
        """The facts since the last call."""
        if self._limit_hits:
            self._facts += [LimitHit(limit, count) for limit, count in self._limit_hits.items() if count]
            self._limit_hits.clear()
        facts = self._facts[:]
        self._facts.clear()
        return facts

"""The core as the tests drive it: a ledger with its figures, which remembers every fact."""

from collections.abc import Iterable, Iterator, Sequence

from tests.harness.core.reference import UNSEEN
from txninsightd.core.archive import Archive
from txninsightd.core.events import Judged
from txninsightd.core.eviction import Eviction
from txninsightd.core.facts import Fact, Settled, StuckChanged
from txninsightd.core.figures import Figures
from txninsightd.core.finished import Finished
from txninsightd.core.ledger import Ledger
from txninsightd.core.pipeline import Pipeline
from txninsightd.core.portions import Message
from txninsightd.core.rules import Rules
from txninsightd.core.sinks import Sink
from txninsightd.core.snapshot import dump, restore
from txninsightd.core.transaction import Transaction
from txninsightd.core.verdicts import PartitionState
from txninsightd.vocabulary import PartitionRef

BOUNDS = (0.5, 2.0, 10.0, 60.0)


class Recorder(Sink):
    """Remembers all facts, in order."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def take(self, facts: Sequence[Fact], now: float) -> None:
        self.facts += facts


class Core:
    """A pipeline, and all facts that it reported; only those since the last settlement if it does not remember."""

    def __init__(
        self,
        rules: Rules,
        start_at: float = UNSEEN,
        bounds: tuple[float, ...] = BOUNDS,
        most_labels: int = 100,
        remembers: bool = True,
    ) -> None:
        self._recorder = Recorder()
        self._remembers = remembers
        self.pipeline = Pipeline(Ledger(rules, start_at), Figures(bounds, most_labels), [self._recorder])

    @classmethod
    def of(cls, pipeline: Pipeline) -> "Core":
        """The core of a pipeline that was made elsewhere; its facts are not seen here."""
        core = cls(pipeline.ledger.rules)
        core.pipeline = pipeline
        return core

    # What changes it

    def apply(self, message: Message, now: float = 0.0) -> list[Fact]:
        return self.pipeline.apply(message, now)

    def settle(self, now: float) -> list[Finished]:
        """The transactions that are settled by this."""
        before = len(self.facts)
        self.pipeline.settle(now)
        settled = [fact.finished for fact in self.facts[before:] if isinstance(fact, Settled)]
        if not self._remembers:
            self.facts.clear()
        return settled

    def tick(self, now: float) -> None:
        self.pipeline.tick(now)

    def forget(self, txn_id: str, now: float) -> bool:
        """Whether it was live."""
        return bool(self.pipeline.forget(txn_id, now))

    def adopt(self, rules: Rules, now: float) -> Iterator[None]:
        return self.pipeline.adopt(rules, now)

    # What a restart makes of it

    def chunks(self) -> list[bytes]:
        return [bytes(chunk) for chunk in dump(self.pipeline)]

    def restored(self) -> "Core":
        """What its own snapshot restores. It remembers the facts of before."""
        after = Core(self.rules, bounds=self.figures.bounds)
        after.restore(self.chunks())
        after.facts.extend(self.facts)
        return after

    def restore(self, chunks: Iterable[bytes]) -> list[str]:
        """Take up a snapshot; gives the sections that no sink takes."""
        return restore(chunks, self.pipeline)

    # What is asked of it

    @property
    def facts(self) -> list[Fact]:
        return self._recorder.facts

    @property
    def ledger(self) -> Ledger:
        return self.pipeline.ledger

    @property
    def figures(self) -> Figures:
        return self.pipeline.figures

    @property
    def rules(self) -> Rules:
        return self.ledger.rules

    @property
    def live(self) -> dict[str, Transaction]:
        return self.ledger.live

    @property
    def stuck(self) -> dict[str, Transaction]:
        return self.ledger.stuck

    @property
    def partitions(self) -> dict[PartitionRef, PartitionState]:
        return self.ledger.partitions

    @property
    def archive(self) -> Archive:
        return self.ledger.archive

    @property
    def eviction(self) -> Eviction:
        return self.ledger.eviction

    @property
    def caught_up(self) -> bool:
        return self.ledger.stuck_tracker.caught_up

    @property
    def stuck_changes(self) -> list[StuckChanged]:
        return [fact for fact in self.facts if isinstance(fact, StuckChanged)]

    @property
    def settled(self) -> list[Settled]:
        return [fact for fact in self.facts if isinstance(fact, Settled)]

    def life(self, txn: Transaction) -> list[Judged]:
        return self.ledger.life(txn)

"""What folds facts: the contract between the pipeline (pipeline.py) and each sink.

A sink is handed every fact once, in order, together with all other sinks and before the next message is applied. It
never calls the ledger and never learns of a fact in another way, so its state is always of the same moment as the
ledger's. A sink that must outlive the process is stateful: the snapshot holds what `save` gives under its `name`.
"""

from collections.abc import Iterable, Iterator, Sequence

from txninsightd.core.facts import Fact
from txninsightd.core.transaction import Standing


class Sink:
    """Folds facts. Nothing here may wait, and what is raised ends the aggregator."""

    def take(self, facts: Sequence[Fact], now: float) -> None:
        """Fold these facts, which the ledger reported at `now` (epoch seconds)."""
        raise NotImplementedError

    def rebuild(self, standings: Iterable[Standing]) -> None:
        """Work out anew what is not saved, from where every live transaction stands. Called once, after a restore."""

    def end_round(self) -> None:
        """All messages that arrived together are applied and settled: batched effects, such as logging, belong here."""


class StatefulSink(Sink):
    """A sink with state that a snapshot holds. `name` is the section's name and must never change."""

    name: str

    def save(self) -> Iterator[bytes]:
        """The state in parts of a few megabytes, which must not be changed by this.

        Called between two messages, also before the round has ended, and mostly in a forked process: no descriptor,
        lock or thread may be needed.
        """
        raise NotImplementedError

    def restore(self, parts: list[bytes]) -> None:
        """Take up a saved state, once, before any fact.

        Raises ValueError for parts that are no such state, also when one is missing or stands twice: the store only
        promises that the bytes are those that were written.
        """
        raise NotImplementedError

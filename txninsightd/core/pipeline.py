"""The ledger and its sinks, moved as one.

Each call applies something to the ledger and hands the facts that it returns to every sink before the call itself
returns. Between two calls all state is therefore of one moment, and that is when a snapshot may be taken: no decision
is lost or counted twice, whichever process dies when. The daemon and the tests use the same class.
"""

from collections.abc import Iterable, Iterator, Sequence

from txninsightd.core.facts import Fact
from txninsightd.core.figures import Figures
from txninsightd.core.ledger import Ledger
from txninsightd.core.portions import Message
from txninsightd.core.rules import Rules
from txninsightd.core.sinks import Sink, StatefulSink


class Pipeline:
    """`sinks` get the facts after the figures do, in this order. `now` is in epoch seconds everywhere."""

    def __init__(self, ledger: Ledger, figures: Figures, sinks: Sequence[Sink] = ()) -> None:
        self.ledger = ledger
        self.figures = figures
        self._sinks = (figures, *sinks)
        names = [sink.name for sink in self.stateful_sinks]
        assert len(set(names)) == len(names), f"two sinks with one name: {names}"
        # The steps of a reload are taken between other calls, and go by the time that those were told.
        self._now = 0.0

    @property
    def stateful_sinks(self) -> list[StatefulSink]:
        """The sinks that a snapshot holds."""
        return [sink for sink in self._sinks if isinstance(sink, StatefulSink)]

    def apply(self, message: Message, now: float) -> list[Fact]:
        """Take in one message of a reader."""
        return self._hand_over(self.ledger.apply(message, now), now)

    def evaluating(self, now: float) -> Iterator[None]:
        """Evaluate in short steps what is left of the latest messages; anything else may be called between two."""
        return self._stepwise(self.ledger.evaluate(now))

    def settle(self, now: float) -> None:
        """Settle what is final, and end the round of messages that was applied since the last call."""
        for _ in self.settling(now):
            pass

    def settling(self, now: float) -> Iterator[None]:
        """The same in short steps, between which anything else may be called."""
        # Not `now` below: by the next step it is past.
        self._now = now
        yield from self._stepwise(self.ledger.settle(now))
        for sink in self._sinks:
            sink.end_round()

    def clock_stepped(self, by_s: float, now: float) -> list[Fact]:
        """Our clock was found to be stepped by so many seconds; `now` is told by it as it is from here on."""
        return self._hand_over(self.ledger.clock_stepped(by_s, now), now)

    def tick(self, now: float) -> list[Fact]:
        """Do what depends on the wall clock alone."""
        return self._hand_over(self.ledger.tick(now), now)

    def forget(self, txn_id: str, now: float) -> list[Fact]:
        """End a live transaction on the operator's order; no facts when there is none."""
        return self._hand_over(self.ledger.forget(txn_id, now), now)

    def adopt(self, rules: Rules, now: float) -> Iterator[None]:
        """Go by other rules: at once for what comes, in the short steps that are returned for what is there."""
        # The ledger changes its rules in this call, its steps come later.
        self._now = now
        return self._stepwise(self.ledger.adopt(rules, now))

    def rebuild(self) -> None:
        """Let the sinks work out anew what a snapshot does not hold. To be called once, after a restore."""
        for sink in self._sinks:
            sink.rebuild(self.ledger.standings())

    def name_labels(self, most_label_values: int, txn_types: Iterable[str]) -> None:
        """Give so many values of each label a name from now on, these types first."""
        self.figures.name_at_most(most_label_values)
        self.figures.name_types(txn_types)
        self.figures.label_overflow(self.ledger.standings())

    def _stepwise(self, steps: Iterator[list[Fact]]) -> Iterator[None]:
        for facts in steps:
            self._hand_over(facts, self._now)
            yield

    def _hand_over(self, facts: list[Fact], now: float) -> list[Fact]:
        self._now = now
        if facts:
            for sink in self._sinks:
                sink.take(facts, now)
        return facts

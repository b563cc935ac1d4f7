"""The transactions that must be evaluated, in the order in which they came up; each stands here once or twice.

Millions may come up at once (a large Kafka transaction is aborted, a burst of them falls idle), so they are taken out
in portions.
"""

from collections.abc import Iterable, Iterator

from txninsightd.core.transaction import Transaction


class Agenda:
    """`added`: what came up since the portion at hand began, a dict as an ordered set, for inner loops to write to."""

    def __init__(self) -> None:
        self.added: dict[Transaction, None] = {}
        self._taken: list[Transaction] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self.added) + len(self._taken) - self._next

    def __bool__(self) -> bool:
        return bool(self.added) or self._next < len(self._taken)

    def __iter__(self) -> Iterator[Transaction]:
        """All that are left."""
        yield from self._taken[self._next :]
        yield from self.added

    def add(self, txns: Iterable[Transaction]) -> None:
        """These must be evaluated."""
        self.added.update(dict.fromkeys(txns))

    def take(self, most: int) -> list[Transaction]:
        """The next ones, at most so many; none when nothing is left."""
        if self._next == len(self._taken):
            self._taken, self._next, self.added = list(self.added), 0, {}
        portion = self._taken[self._next : self._next + most]
        self._next += len(portion)
        if self._next == len(self._taken):
            self._taken, self._next = [], 0
        return portion

"""Bounds the memory of answers that clients have not taken yet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

MOST_UNREAD_BYTES = 64 * 1024 * 1024
SMALL_BYTES = 64 * 1024
"""Bodies up to this size are not counted: the bound on connections bounds them."""

End = Callable[[], None]
"""Ends the connection of one reader."""


class _Held(NamedTuple):
    body: bytes
    readers: set[End]


class UnreadBodies:
    """The large bodies that clients are reading. A body counts once, however many clients read it.

    Above the bound the readers of the oldest body lose their connections: a client that reads without delay has a newer
    one. The newest body may always be read, also if it is larger than the bound.
    """

    def __init__(self, most_bytes: int = MOST_UNREAD_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held: dict[int, _Held] = {}

    @property
    def size_bytes(self) -> int:
        """The size of these bodies."""
        return sum(len(held.body) for held in self._held.values())

    @property
    def readers(self) -> int:
        """How many clients read them."""
        return sum(len(held.readers) for held in self._held.values())

    @contextmanager
    def reading(self, body: bytes, end: End) -> Iterator[None]:
        """While a client reads this body. `end` is called if it must stop."""
        if len(body) <= SMALL_BYTES:
            yield
            return
        held = self._held.setdefault(id(body), _Held(body, set()))
        held.readers.add(end)
        self._keep_to_the_bound()
        try:
            yield
        finally:
            held.readers.discard(end)
            # Another body may have the same id by now.
            if not held.readers and self._held.get(id(body)) is held:
                del self._held[id(body)]

    def _keep_to_the_bound(self) -> None:
        while len(self._held) > 1 and self.size_bytes > self._most_bytes:
            oldest = next(iter(self._held))
            for end in self._held.pop(oldest).readers.copy():
                end()

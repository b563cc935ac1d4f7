"""Tombstones: which transactions are over, so that a late event or a duplicate does not begin a new life.

A tombstone is a 64-bit hash of the id (BLAKE2b, so that every process computes the same). Hashes are kept in
generations: the youngest is a dict, older ones are sorted arrays of eight bytes an id. Whole generations are forgotten,
by age or when there are too many. The lowest bit of a stored hash says whether the transaction ended as Aborted: only
such a transaction may be opened again.
"""

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

GENERATIONS = 8


class Generation(NamedTuple):
    """Sealed: sorted hashes, and the moment at which the last was added."""

    hashes: "array[int]"
    sealed_at: float


def hash_of(txn_id: str) -> int:
    """63 bits of BLAKE2b, shifted left by one to leave room for the bit."""
    return int.from_bytes(blake2b(txn_id.encode(), digest_size=8).digest()) & ~1


class Tombstones:
    """A bounded memory of finished transactions: at most `most` ids, each for about `remember_s` seconds."""

    def __init__(self, remember_s: float, most: int) -> None:
        self._young: dict[int, int] = {}
        self._young_since = 0.0
        self._sealed: deque[Generation] = deque()
        self.keep(remember_s, most)

    @property
    def young(self) -> dict[int, int]:
        """The youngest generation: hash to bit."""
        return self._young

    @property
    def young_since(self) -> float:
        """When the youngest generation began."""
        return self._young_since

    @property
    def sealed(self) -> Iterable[Generation]:
        """The older generations, oldest first."""
        return self._sealed

    def restore(self, young: dict[int, int], young_since: float, sealed: Iterable[Generation]) -> None:
        """Take up the tombstones of a snapshot."""
        self._young, self._young_since, self._sealed = young, young_since, deque(sealed)

    def move_moments(self, move: Callable[[float], float]) -> None:
        """Our clock was wrong: replace each moment that it gave."""
        self._young_since = move(self._young_since)
        self._sealed = deque(g._replace(sealed_at=move(g.sealed_at)) for g in self._sealed)

    def __len__(self) -> int:
        return len(self._young) + sum(len(g.hashes) for g in self._sealed)

    def keep(self, remember_s: float, most: int) -> int:
        """Go by other bounds. The oldest that have no room are forgotten; returns how many."""
        self._span_s = remember_s / GENERATIONS
        self._remember_s = remember_s
        self._most = most
        self._most_each = max(1, most // GENERATIONS)
        # The oldest are forgotten, and room for one generation is left, as after each sealing.
        surplus = max(0, len(self._young) + self._most_each - most)
        self._young = dict(islice(self._young.items(), surplus, None))
        return surplus + self._forget_the_oldest()

    def add(self, txn_id: str, aborted: bool, now: float) -> int:
        """Remember that the transaction is over; returns how many others had to be forgotten for it."""
        if not self._young:
            self._young_since = now
        self._young[hash_of(txn_id)] = int(aborted)
        return self._seal(now) if len(self._young) >= self._most_each else 0

    def was_aborted(self, txn_id: str) -> bool | None:
        """Whether it ended as Aborted; None without a tombstone. The youngest tombstone of an id counts."""
        wanted = hash_of(txn_id)
        bit = self._young.get(wanted)
        if bit is not None:
            return bool(bit)
        for generation in reversed(self._sealed):
            # The bit of `wanted` is 0, so this finds the hash with either bit.
            i = bisect_left(generation.hashes, wanted)
            if i < len(generation.hashes) and generation.hashes[i] | 1 == wanted | 1:
                return bool(generation.hashes[i] & 1)
        return None

    def age(self, now: float) -> None:
        """Forget what is too old."""
        if self._young and now - self._young_since > self._span_s:
            self._seal(now)
        while self._sealed and now - self._sealed[0].sealed_at > self._remember_s:
            self._sealed.popleft()

    def _seal(self, now: float) -> int:
        young = iter(self._young.items())
        # There are several portions when `keep` has made generations smaller; each becomes a generation of its own.
        while some := list(islice(young, self._most_each)):
            self._sealed.append(Generation(array("Q", sorted(h | bit for h, bit in some)), now))
        self._young = {}
        self._young_since = now
        return self._forget_the_oldest()

    def _forget_the_oldest(self) -> int:
        forgotten = 0
        while self._sealed and (len(self._sealed) >= GENERATIONS or len(self) > self._most):
            forgotten += len(self._sealed.popleft().hashes)
        return forgotten

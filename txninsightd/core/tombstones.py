"""Tombstones: which transactions are over, so that a late event or a duplicate does not begin a new life.

A tombstone is a 64-bit hash of the id (BLAKE2b, so that every process computes the same). Hashes are kept in
generations: the youngest is a dict, older ones are sorted arrays of eight bytes an id. Whole generations are forgotten,
by age or when there are too many. The lowest bit of a stored hash says whether the transaction ended as Aborted: only
such a transaction may be opened again.

To sort a generation of a million takes half a second, so a large one is sorted in steps: one with every 64th tombstone
that comes, some with each tick. Meanwhile its dict is asked.
"""

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

GENERATIONS = 8

SORTED_A_STEP = 10_000
"""A generation up to this size is sorted at once; of a larger one, so many are looked at in a step."""

BUCKETS_BITS = 6
"""A large generation is sorted bucket by bucket; the first bits of a hash say into which it belongs."""

TOMBSTONES_A_STEP = 64
STEPS_A_TICK = 4


class Generation(NamedTuple):
    """Sealed: sorted hashes, and the moment at which the last was added."""

    hashes: "array[int]"
    sealed_at: float


def hash_of(txn_id: str) -> int:
    """63 bits of BLAKE2b, shifted left by one to leave room for the bit."""
    return int.from_bytes(blake2b(txn_id.encode(), digest_size=8).digest()) & ~1


class Sealing:
    """A generation that is being sorted."""

    def __init__(self, bits: dict[int, int], sealed_at: float) -> None:
        self.bits = bits
        self.sealed_at = sealed_at
        self._hashes = array("Q")
        self._steps = self._sort()

    def sealed(self) -> Generation:
        """The generation once it is sorted, which is done at once here."""
        return Generation(array("Q", sorted(h | bit for h, bit in self.bits.items())), self.sealed_at)

    def step(self) -> Generation | None:
        """Do a part of the work; returns the generation once all is done."""
        if len(self.bits) <= SORTED_A_STEP:
            return self.sealed()
        if next(self._steps, self) is self:
            return Generation(self._hashes, self.sealed_at)
        return None

    def _sort(self) -> Iterator[None]:
        buckets = [array("Q") for _ in range(1 << BUCKETS_BITS)]
        items, shift = iter(self.bits.items()), 64 - BUCKETS_BITS
        while some := list(islice(items, SORTED_A_STEP)):
            for h, bit in some:
                buckets[h >> shift].append(h | bit)
            yield
        for bucket in buckets:
            self._hashes.fromlist(sorted(bucket))
            yield


class Tombstones:
    """A bounded memory of finished transactions: at most `most` ids, each for about `remember_s` seconds."""

    def __init__(self, remember_s: float, most: int) -> None:
        self._young: dict[int, int] = {}
        self._young_since = 0.0
        # Older than those that are still being sealed.
        self._sealed: deque[Generation] = deque()
        self._sealing: deque[Sealing] = deque()
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
        """The older generations, oldest first. Those that are being sorted are given as if they were."""
        yield from self._sealed
        yield from (sealing.sealed() for sealing in self._sealing)

    @property
    def being_sorted(self) -> int:
        """How many tombstones are in generations that are still being sorted."""
        return sum(len(sealing.bits) for sealing in self._sealing)

    def restore(self, young: dict[int, int], young_since: float, sealed: Iterable[Generation]) -> None:
        """Take up the tombstones of a snapshot."""
        self._young, self._young_since = young, young_since
        self._sealed, self._sealing = deque(sealed), deque()

    def move_moments(self, move: Callable[[float], float]) -> None:
        """Our clock was wrong: replace each moment that it gave."""
        self._young_since = move(self._young_since)
        self._sealed = deque(g._replace(sealed_at=move(g.sealed_at)) for g in self._sealed)
        for sealing in self._sealing:
            sealing.sealed_at = move(sealing.sealed_at)

    def __len__(self) -> int:
        return len(self._young) + self.being_sorted + sum(len(g.hashes) for g in self._sealed)

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
        if self._sealing and not len(self._young) % TOMBSTONES_A_STEP:
            self._sort_some()
        return self._seal(now) if len(self._young) >= self._most_each else 0

    def was_aborted(self, txn_id: str) -> bool | None:
        """Whether it ended as Aborted; None without a tombstone. The youngest tombstone of an id counts."""
        wanted = hash_of(txn_id)
        bit = self._young.get(wanted)
        if bit is not None:
            return bool(bit)
        for sealing in reversed(self._sealing):
            bit = sealing.bits.get(wanted)
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
        for _ in range(STEPS_A_TICK):
            self._sort_some()
        while (oldest := self._oldest()) is not None and now - oldest.sealed_at > self._remember_s:
            self._drop_the_oldest()

    def _seal(self, now: float) -> int:
        young = self._young
        if len(young) <= self._most_each:
            self._sealing.append(Sealing(young, now))
        else:
            # `keep` has made generations smaller; each portion becomes a generation of its own.
            items = iter(young.items())
            while some := dict(islice(items, self._most_each)):
                self._sealing.append(Sealing(some, now))
        self._young = {}
        self._young_since = now
        while self._sealing and len(self._sealing[0].bits) <= SORTED_A_STEP:
            self._sort_some()
        return self._forget_the_oldest()

    def _sort_some(self) -> None:
        sealed = self._sealing[0].step() if self._sealing else None
        if sealed is not None:
            self._sealing.popleft()
            self._sealed.append(sealed)

    def _oldest(self) -> Generation | Sealing | None:
        if self._sealed:
            return self._sealed[0]
        return self._sealing[0] if self._sealing else None

    def _drop_the_oldest(self) -> int:
        return len(self._sealed.popleft().hashes) if self._sealed else len(self._sealing.popleft().bits)

    def _forget_the_oldest(self) -> int:
        forgotten = 0
        while (generations := len(self._sealed) + len(self._sealing)) and (
            generations >= GENERATIONS or len(self) > self._most
        ):
            forgotten += self._drop_the_oldest()
        return forgotten

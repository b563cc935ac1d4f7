"""Which children are readers, and which share of the partitions each of them reads."""

from collections import Counter
from collections.abc import Iterable, Mapping
from zlib import crc32

from txninsightd.vocabulary import PartitionStart, ReaderRole, View


class Readers:
    """`roles`: the role of each child that is a reader, by name. Any other child has no share of anything."""

    def __init__(self, roles: Mapping[str, ReaderRole]) -> None:
        self._roles = roles
        self._names = {role: name for name, role in roles.items()}
        self._counts = Counter(role.view for role in roles.values())

    def view_of(self, child: str) -> View | None:
        """The view that a child reads; None: it is no reader."""
        role = self._roles.get(child)
        return role.view if role is not None else None

    def share(self, child: str, starts: Iterable[PartitionStart]) -> list[PartitionStart]:
        """Those of these partitions that a reader reads, of its view."""
        view, number = self._roles[child]
        return [s for s in starts if share_of(s.topic, s.partition, self._counts[view]) == number]

    def name_for(self, view: View, topic: str, partition: int) -> str:
        """The reader that has this partition in its share."""
        return self._names[ReaderRole(view, share_of(topic, partition, self._counts[view]))]


def share_of(topic: str, partition: int, count: int) -> int:
    """Which of `count` readers of a view reads this partition; the same for all time."""
    # Not hash(), which is salted anew at each start. Adding the partition spreads those of one topic evenly.
    return (crc32(topic.encode()) + partition) % count

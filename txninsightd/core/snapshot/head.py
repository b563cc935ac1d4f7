"""The head of a snapshot: all of the ledger's state but its transactions.

What follows from the saved state without judging anything is left out: wheels are filled from the moments at which
something falls due, the queues of the settlement from the endings. The names of fields are keys in snapshots.
"""

from array import array

import msgspec

from txninsightd.core.ledger import Ledger
from txninsightd.core.lifecycle import Outage
from txninsightd.core.our_clock import NOT_KNOWN, OurClock
from txninsightd.core.pauses import Pauses
from txninsightd.core.rules import JudgingRules
from txninsightd.core.saved_values import Count, Moment, Offset, OffsetAnswered, Stamp
from txninsightd.core.snapshot.columns import numbers_of
from txninsightd.core.tombstones import Generation, Tombstones
from txninsightd.core.topics import Incarnation
from txninsightd.core.verdicts import PartitionState, Sighted
from txninsightd.core.watermark import Gap
from txninsightd.vocabulary import Coverage, PartitionRef


class SavedPositions(msgspec.Struct):
    """The plain fields of a PartitionState."""

    monitor_offset: Offset
    validator_offset: Offset
    decided_offset: Offset
    monitor_as_of: Moment
    validator_as_of: Moment
    read_past: Moment
    absent_at: Moment
    gone: bool
    void: bool
    waiting_runs: Count
    monitor_end: OffsetAnswered
    validator_end: OffsetAnswered
    stable_offset: OffsetAnswered
    waiting_since: Stamp
    topic_id: str = ""


PARTITION_FIELDS = SavedPositions.__struct_fields__


class SavedPartition(msgspec.Struct, array_like=True):
    """One partition of one topic, and what waits there."""

    ref: PartitionRef
    fields: SavedPositions
    waiting: list[Coverage]
    sighted: list[Sighted]


class SavedDomain(msgspec.Struct, array_like=True):
    """How far one domain was seen, and where not. `ref`: of the one partition that it is; None: all of them."""

    ref: PartitionRef | None
    as_of: Moment
    gaps: list[Gap]


class SavedTombstones(msgspec.Struct):
    """The tombstones: eight bytes for each id, the youngest generation apart from the sealed ones."""

    young: bytes
    young_since: Stamp
    sealed: list[tuple[bytes, Stamp]]


class Head(msgspec.Struct, kw_only=True):
    """`judging`: by what the live ones are judged; `judged`: whether all are by now.

    `sections`: the names of the stateful sinks, with their states in the last chunks. `figures` only stands in
    snapshots of version 1, which have no other section.
    """

    colocated: bool
    judging: JudgingRules
    judged: bool
    start_at: Moment
    caught_up: bool
    discovered_at: Moment
    outages: list[Outage]
    leaps: list[Outage] = []
    our_clock: OurClock = NOT_KNOWN
    domains: list[SavedDomain]
    partitions: list[SavedPartition]
    topics: dict[str, Incarnation]
    memory: SavedTombstones
    live: Count
    lingering: Count
    sections: list[str] = []
    figures: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def saved_head(ledger: Ledger, sections: list[str]) -> Head:
    """The head of a ledger's snapshot."""
    watermark = ledger.watermark
    return Head(
        colocated=ledger.rules.colocated,
        judging=ledger.rules.judging,
        judged=ledger.judged_by is not None,
        start_at=ledger.start_at,
        caught_up=ledger.stuck_tracker.caught_up,
        discovered_at=watermark.discovered_at,
        outages=watermark.pauses.outages,
        leaps=watermark.pauses.leaps,
        our_clock=ledger.our_clock,
        domains=[SavedDomain(ref, domain.as_of, domain.gaps) for ref, domain in watermark.domains()],
        partitions=[_saved_partition(p) for p in ledger.partitions.values()],
        topics=ledger.topics.incarnations,
        memory=_saved_tombstones(ledger.archive.tombstones),
        live=len(ledger.live),
        lingering=len(ledger.archive.lingering),
        sections=sections,
    )


def restore_head(head: Head, ledger: Ledger) -> None:
    """Bring an empty ledger to the state of a head."""
    ledger.intake.start_at = head.start_at
    ledger.our_clock = head.our_clock
    ledger.stuck_tracker.caught_up = head.caught_up
    ledger.topics.incarnations = head.topics
    ledger.restore_judging(head.judging, head.judged)
    # In the order in which they came: of the topics of one name the latest counts for the watermark.
    for saved in head.partitions:
        _restore_partition(ledger, saved)
    # After the partitions, which make the domains.
    pauses = Pauses(head.outages, head.leaps)
    ledger.watermark.restore(head.discovered_at, pauses, [(d.ref, d.as_of, d.gaps) for d in head.domains])
    _restore_tombstones(ledger.archive.tombstones, head.memory)


def _saved_partition(partition: PartitionState) -> SavedPartition:
    fields = SavedPositions(*(getattr(partition, name) for name in PARTITION_FIELDS))
    return SavedPartition(partition.ref, fields, list(partition.waiting), list(partition.sighted))


def _restore_partition(ledger: Ledger, saved: SavedPartition) -> None:
    partition = ledger.add_partition(saved.ref, 0)
    for name in PARTITION_FIELDS:
        setattr(partition, name, getattr(saved.fields, name))
    topic = ledger.topics.incarnations.get(saved.ref.topic)
    # Version 1 has no ids here; what is known of the present incarnation stands with the topics.
    if not partition.topic_id and topic is not None and topic.number == saved.ref.incarnation:
        partition.topic_id = topic.topic_id
    partition.restore(saved.waiting, saved.sighted)


def _saved_tombstones(tombstones: Tombstones) -> SavedTombstones:
    young = array("Q", (h | bit for h, bit in tombstones.young.items()))
    sealed = [(g.hashes.tobytes(), g.sealed_at) for g in tombstones.sealed]
    return SavedTombstones(young.tobytes(), tombstones.young_since, sealed)


def _restore_tombstones(tombstones: Tombstones, saved: SavedTombstones) -> None:
    young = numbers_of("Q", saved.young)
    sealed = [Generation(numbers_of("Q", hashes), sealed_at) for hashes, sealed_at in saved.sealed]
    tombstones.restore({number & ~1: number & 1 for number in young}, saved.young_since, sealed)

"""The property: the same world, read and delivered in different orders, settles the same.

It is promised to a transaction whose every event was appended before the first of its committed or unknown closes was
decided; which (not colocated) is stamped before its deciding close + `settle_lateness_s` and precedes in its partition
every record stamped later than that; and of which all that was tried again, after everything before it had been
aborted, was appended within `retry_grace_s` of that abort. Colocated, the first of these is not even needed: what lies
beyond the close is late wherever it is met.

These preconditions are judged here from the world's truth (when each record was appended) and from what the streams of
messages will once have said, not from anything that a ledger did. Transactions that do not meet them may have events
that count or are late, but nothing of them is raised from the dead or counted twice; that is held for all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.harness.core.core import Core
from tests.harness.core.reference import CLOSE, Ended, Partition, Seen, Sighting, deciding_close, of_kind
from tests.harness.core.side_by_side import end_of, new_core
from tests.harness.core.worlds import Sent, Streams, World, nows, ref_of
from txninsightd.core.finished import Finished
from txninsightd.vocabulary import Anomaly, Coverage, Outcome, PartitionRef, Sightings, Signature, Verdict

# --- What the streams will once have said -----------------------------------------------------------------------------


def told(world: World, streams: Streams) -> dict[str, list[Seen]]:
    """All events that are ever sighted, with their last verdicts, by transaction."""
    partitions: dict[PartitionRef, Partition] = {}
    for sent in (sent for stream in streams for sent in stream):
        message, ref = sent.message, ref_of(sent.message)
        if ref is not None:
            partition = partitions.setdefault(ref, Partition(ref, world.start_offset(ref)))
            if isinstance(message, Sightings):
                partition.sightings.append(message)
            elif isinstance(message, Coverage):
                partition.coverage.append(message)
    found: dict[str, list[Seen]] = {}
    for partition in partitions.values():
        for event in _sighted(partition):
            found.setdefault(event.txn_id, []).append(Seen(event, *partition.verdict(event.offset)))
    return found


def _sighted(partition: Partition) -> Iterator[Sighting]:
    for m in partition.sightings:
        for i, offset in enumerate(m.offsets):
            signature = Signature(*m.signatures[m.signature_indexes[i]])
            yield Sighting(
                partition.ref, offset, m.txn_ids[i], signature, m.timestamps[i], m.record_timestamps[i], m.read_at
            )


# --- The preconditions ------------------------------------------------------------------------------------------------


def within_property(world: World, events: list[Seen]) -> bool:
    """Whether the transaction meets the preconditions under which every order must settle it the same."""
    if world.rules.colocated:
        if len({s.event.ref for s in events}) > 1:
            return False
        return _retried_in_time(world, _up_to_first_decided_close(events))
    return _appended_in_time(world, events) and _stamped_in_time(world, events) and _retried_in_time(world, events)


def _appended_at(world: World, event: Sighting) -> float:
    return world.logs[event.ref].records[event.offset].at


def _up_to_first_decided_close(events: list[Seen]) -> list[Seen]:
    closes = of_kind(events, CLOSE, Verdict.COMMITTED, Verdict.UNKNOWN)
    first = min((s.event.offset for s in closes), default=None)
    return [s for s in events if first is None or s.event.offset <= first]


def _appended_in_time(world: World, events: list[Seen]) -> bool:
    """Each was appended before the first of its committed or unknown closes was decided."""
    closes = of_kind(events, CLOSE, Verdict.COMMITTED, Verdict.UNKNOWN)
    decided_at = min((s.decided_at for s in closes), default=float("inf"))
    return all(_appended_at(world, s.event) < decided_at for s in events)


def _stamped_in_time(world: World, events: list[Seen]) -> bool:
    """Each is stamped before the deciding close + lateness, and precedes every record of its partition beyond that."""
    close = deciding_close(events)
    if close is None:
        return True
    latest = close.event.record_ts + world.rules.settle_lateness_s
    return all(
        record.control or record.record_ts <= latest
        for s in events
        for record in world.logs[s.event.ref].records[: s.event.offset + 1]
    )


def _retried_in_time(world: World, events: list[Seen]) -> bool:
    """What came after everything before it had been aborted came within the grace."""
    for s in events:
        before = [other for other in events if _came_before(world, other.event, s.event)]
        if before and not any(other.stands for other in before):
            given_up_at = max(other.decided_at for other in before) + world.rules.retry_grace_s
            if _appended_at(world, s.event) > given_up_at:
                return False
    return True


def _came_before(world: World, other: Sighting, event: Sighting) -> bool:
    if other.ref == event.ref:
        return other.offset < event.offset
    return _appended_at(world, other) < _appended_at(world, event)


# --- One run ----------------------------------------------------------------------------------------------------------


class StandsAt(NamedTuple):
    """Where a live transaction stands."""

    state: str
    cause: str | None
    since: float
    events: frozenset[tuple[PartitionRef, int]]


@dataclass
class Run:
    """What a ledger made of one order of arrival."""

    core: Core
    ended: dict[str, list[Ended]]
    live: dict[str, StandsAt]
    late_events: int


def run(world: World, arrived: list[Sent], settle_every: int) -> Run:
    """Play one order of arrival to its end, and check that nothing counts twice."""
    core = new_core(world)
    finished: list[Finished] = []
    now, sighted = 0.0, 0
    for i, (now, message) in enumerate(nows(arrived)):
        core.apply(message)
        sighted += len(message.offsets) if isinstance(message, Sightings) else 0
        if i % settle_every == 0:
            finished += core.settle(now)
    finished += core.settle(now)
    late = core.figures.anomalies[Anomaly.LATE_EVENT.value]
    _counted_once(core, finished, late, sighted)
    ended: dict[str, list[Ended]] = {}
    for f in finished:
        ended.setdefault(f.txn.txn_id, []).append(end_of(f))
    live = {
        txn_id: StandsAt(txn.state, txn.cause, txn.since, frozenset((e.ref, e.offset) for e in txn.events))
        for txn_id, txn in core.live.items()
    }
    _never_raised_from_the_dead(core, ended)
    return Run(core, ended, live, late)


def _counted_once(core: Core, finished: list[Finished], late: int, sighted: int) -> None:
    """Every sighting is in one life that ended, in a live one, or late: in one of them, once."""
    lived = [(j.event.ref, j.event.offset, f.txn.txn_id) for f in finished for j in f.life] + [
        (e.ref, e.offset, t.txn_id) for t in core.live.values() for e in t.events
    ]
    assert len(lived) == len(set(lived))
    assert len(lived) + late == sighted
    assert sum(core.figures.finished.values()) == len(finished)


def _never_raised_from_the_dead(core: Core, ended: dict[str, list[Ended]]) -> None:
    for txn_id, lives in ended.items():
        live = core.live.get(txn_id)
        followed = lives if live is not None else lives[:-1]
        assert all(e.outcome == Outcome.ABORTED for e in followed)
        assert [Anomaly.LATE_RETRY in e.anomalies for e in lives] == [k > 0 for k in range(len(lives))]
        assert live is None or live.late_retry


# --- Runs against each other ------------------------------------------------------------------------------------------


def hold_same(first: Run, other: Run, names: list[str], same_messages: bool) -> None:
    """These transactions have come to the same end in both runs, or stand where they stood."""
    for name in names:
        ends = [[_comparable(e, same_messages) for e in r.ended.get(name, [])] for r in (first, other)]
        assert (name, ends[0]) == (name, ends[1])
        assert len(ends[0]) <= 1
        if same_messages:
            assert (name, first.live.get(name)) == (name, other.live.get(name))
        else:
            assert (name in first.live) == (name in other.live)


def _comparable(ended: Ended, same_messages: bool) -> Ended:
    """Without what may differ: how many late ones came before the end; read differently, when a verdict was known."""
    return ended._replace(late_events=0, commit_delay_s=ended.commit_delay_s if same_messages else None)

"""Short ways to write messages by hand, for the tests that tell one small story."""

from typing import Any

from tests.harness.core.side_by_side import SideBySide
from tests.harness.core.worlds import Message, Style, World, make_rules, runs
from txninsightd.vocabulary import Coverage, Discovery, Kind, PartitionRef, PartitionStart, Sightings, Signature

A, B, B_RECREATED = PartitionRef("a", 0), PartitionRef("b", 0), PartitionRef("b", 0, 1)
OPEN, STEP_OPEN, STEP_DONE, CLOSE = Kind.TRANSACTION_OPEN, Kind.STEP_OPEN, Kind.STEP_DONE, Kind.TRANSACTION_CLOSE


def ev(
    offset: int,
    kind: Kind,
    ts: float,
    txn_id: str = "t",
    *,
    record_ts: float | None = None,
    step: str | None = None,
    txn_type: str | None = None,
    status: str | None = None,
    future: bool = False,
    kept_time: bool = False,
) -> tuple[int, str, Signature, float, float]:
    """One event: offset, txn_id, signature, ts, record timestamp (by default the same)."""
    signature = Signature(int(kind), step, txn_type, status, future, kept_time)
    return offset, txn_id, signature, ts, ts if record_ts is None else record_ts


def sight(
    ref: PartitionRef, to_offset: int, *events: tuple[int, str, Signature, float, float], **more: Any
) -> Sightings:
    """A monitor's message: it has passed `to_offset`, and saw these events."""
    table = list({e[2]: None for e in events})
    fields: dict[str, Any] = {
        "read_at": 0.0,
        "as_of": 0.0,
        "low_timestamp": min((e[4] for e in events), default=0.0),
        "gaps": [],
        "results": {"ok": len(events)} if events else {},
        "end_offset": to_offset,
        "outage_from": 0.0,
    } | more
    return Sightings(
        topic=ref.topic,
        partition=ref.partition,
        incarnation=ref.incarnation,
        to_offset=to_offset,
        signatures=[tuple(s) for s in table],  # type: ignore[misc]
        offsets=[e[0] for e in events],
        txn_ids=[e[1] for e in events],
        signature_indexes=[table.index(e[2]) for e in events],
        timestamps=[e[3] for e in events],
        record_timestamps=[e[4] for e in events],
        **fields,
    )


def cover(ref: PartitionRef, low: int, high: int, delivered: list[int], decided_at: float, **more: Any) -> Coverage:
    """A validator's message: it has passed [low, high), and these offsets were delivered."""
    usual = {"as_of": 0.0, "gaps": [], "end_offset": high, "stable_offset": high}
    fields: dict[str, Any] = usual | more
    return Coverage(
        topic=ref.topic,
        partition=ref.partition,
        incarnation=ref.incarnation,
        from_offset=low,
        to_offset=high,
        decided_at=decided_at,
        runs=runs(delivered),
        **fields,
    )


def discover(
    asked_at: float, *refs: PartitionRef, found: tuple[PartitionRef, ...] | None = None, **more: Any
) -> Discovery:
    """These partitions are there, each topic with an id of its incarnation; all are new, or those in `found`."""
    present: dict[str, list[int]] = {}
    for ref in refs:
        present.setdefault(ref.topic, []).append(ref.partition)
    new = [PartitionStart(p.topic, p.partition, 0) for p in (refs if found is None else found)]
    ids = {p.topic: f"{p.topic}-{p.incarnation}" for p in refs}
    return Discovery(asked_at, new, present, [], **{"topic_ids": ids, **more})


def side_by_side(*messages: Message, colocated: bool = False, start_at: float = float("-inf")) -> SideBySide:
    """A ledger and a plain model that were given these messages; both agreed after each of them."""
    both = SideBySide(World(make_rules(Style(colocated)), {}, 0.0, [], start_at))
    hand(both, *messages)
    return both


def hand(both: SideBySide, *messages: Message, now: float = 0.0) -> None:
    """Hand them more messages, with a comparison and a settlement after each."""
    for message in messages:
        both.give(message, now)
        both.compare_live()
        both.settle(now)
    both.compare_live()
    both.compare_figures()

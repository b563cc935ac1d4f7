"""The transactions of a snapshot, as columns: live ones first, in the order in which they came, then lingering ones.

Most transactions are plain, open ones, which need no more than their columns; what else one may have stands in its
`Rest`. The names of fields are keys in snapshots.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, islice
from math import isnan, nan
from sys import intern

import msgspec

from txninsightd.core.archive import NO_FIGURES
from txninsightd.core.events import Event, Judged
from txninsightd.core.finished import Finished
from txninsightd.core.kpis import Kpis
from txninsightd.core.ledger import Ledger
from txninsightd.core.lifecycle import Wait
from txninsightd.core.saved_values import Count, Moment, Offset, Stamp
from txninsightd.core.snapshot.checks import check_transaction
from txninsightd.core.snapshot.columns import Table, due_ats_of, moments_of, moments_or_never_of, numbers_of
from txninsightd.core.transaction import BeenStuck, Ending, Note, Standing, Transaction
from txninsightd.vocabulary import Anomaly, Cause, Kind, Outcome, PartitionRef, Signature, State, Verdict

TRANSACTIONS_A_CHUNK = 10_000

# The index is the bit in existing snapshots: a new field goes to the end.
FLAGS = (
    "committed_close",
    "unknown_close",
    "doubtful",
    "simple",
    "early",
    "future",
    "replayed",
    "sighted_open",
    "counted_open",
    "late_retry",
    "overtime",
)
"""The yes-or-no fields of a transaction, lowest bit first."""

KINDS = frozenset(Kind)


class SavedEnd(msgspec.Struct, array_like=True):
    """How a transaction that lingers ended; `verdicts` of its events, None where all were committed."""

    outcome: Outcome
    attempts: int
    duration_s: float | None
    status: str | None
    anomalies: set[Anomaly]
    commit_delay_s: float | None
    late_events: int
    settled_at: Stamp
    verdicts: list[tuple[Verdict, Stamp]] | None


class Rest(msgspec.Struct, omit_defaults=True):
    """What a plain open transaction does not have. Partitions are numbers in the head's list of partitions."""

    state: State = State.OPEN
    cause: Cause | None = None
    since: Stamp = 0.0
    causes: tuple[Cause, ...] = ()
    ending: tuple[Stamp, Stamp, bool] | None = None
    final: bool = False
    look_at: bool = False
    deciding: tuple[Stamp, int, Offset, Stamp] | None = None
    notes: list[tuple[int, Offset, Verdict, Stamp, Stamp]] = []
    closes: list[tuple[int, Offset, Stamp, Stamp, Stamp | None]] = []
    given_up_steps: Count = 0
    been_stuck: dict[Cause, tuple[Moment, Moment, Moment]] = {}
    end: SavedEnd | None = None


PLAIN = Rest()


class Chunk(msgspec.Struct):
    """Some transactions, as columns of native 32- and 64-bit numbers. A `due_at` that is not a number: none."""

    txn_ids: list[str]
    txn_types: list[str | None]
    type_numbers: bytes
    flags: bytes
    last_at: bytes
    opened_at: bytes
    due_at: bytes
    event_counts: bytes
    signatures: list[Signature]
    signature_numbers: bytes
    place_numbers: bytes
    offsets: bytes
    timestamps: bytes
    record_timestamps: bytes
    rest: dict[int, Rest]


def dump_transactions(ledger: Ledger) -> Iterator[bytes]:
    """All transactions in chunks; the ledger must not change until the last."""
    encode = msgspec.msgpack.Encoder().encode
    # Partitions are numbered in the order in which the head lists them.
    numbers = {ref: i for i, ref in enumerate(ledger.partitions)}
    final = ledger.settlement.final()
    to_look_at = ledger.stuck_tracker.to_look_at() | set(ledger.agenda)
    live = iter(ledger.live.values())
    while some := list(islice(live, TRANSACTIONS_A_CHUNK)):
        rests = {i: _rest(txn, numbers, txn in final, txn in to_look_at) for i, txn in enumerate(some)}
        yield encode(_chunk(some, [txn.events for txn in some], rests, numbers))
    lingering = iter(ledger.archive.lingering.values())
    while ended := list(islice(lingering, TRANSACTIONS_A_CHUNK)):
        rests = {i: _rest_of_ended(finished, numbers) for i, finished in enumerate(ended)}
        lives = [[j.event for j in f.doubtful_life] if f.doubtful_life is not None else f.txn.events for f in ended]
        yield encode(_chunk([f.txn for f in ended], lives, rests, numbers))


def _rest(txn: Transaction, numbers: dict[PartitionRef, int], final: bool, look_at: bool) -> Rest:
    # PLAIN is recognised by identity: only a transaction that is something else gets a record of its own.
    if txn.simple and not (txn.causes or txn.given_up_steps or look_at):
        return PLAIN
    rest = _verdicts(txn, numbers)
    rest.ending = (txn.ending.key, txn.ending.decided_at, txn.ending.wholly_aborted) if txn.ending else None
    rest.final, rest.look_at = final, look_at
    rest.closes = [
        (numbers[c.ref], c.offset, c.record_ts, c.sighted_at, None if c.bucket is None else c.due_at)
        for c in txn.pending_closes
    ]
    return rest


def _verdicts(txn: Transaction, numbers: dict[PartitionRef, int]) -> Rest:
    rest = Rest(txn.state, txn.cause, txn.since, txn.causes)
    rest.given_up_steps = txn.given_up_steps
    rest.been_stuck = {cause: (*been.wait, been.last_at) for cause, been in txn.been_stuck.items()}
    rest.notes = [
        (numbers[ref], offset, note.verdict, note.decided_at, note.sighted_at)
        for (ref, offset), note in txn.notes.items()
    ]
    if txn.deciding is not None:
        record_ts, ref, offset, decided_at = txn.deciding
        rest.deciding = (record_ts, numbers[ref], offset, decided_at)
    return rest


def _rest_of_ended(finished: Finished, numbers: dict[PartitionRef, int]) -> Rest:
    rest, kpis, life = _verdicts(finished.txn, numbers), finished.kpis, finished.doubtful_life
    rest.end = SavedEnd(
        finished.outcome,
        finished.attempts,
        kpis.duration_s,
        kpis.status,
        kpis.anomalies,
        finished.commit_delay_s,
        finished.late_events,
        finished.settled_at,
        [(j.verdict, j.decided_at) for j in life] if life is not None else None,
    )
    return rest


def _chunk(
    txns: list[Transaction], lives: list[list[Event]], rests: dict[int, Rest], numbers: dict[PartitionRef, int]
) -> Chunk:
    events = [event for life in lives for event in life]
    types, signatures = Table(), Table()
    return Chunk(
        txn_ids=[txn.txn_id for txn in txns],
        type_numbers=types.column(txn.txn_type for txn in txns),
        txn_types=list(types.numbers),
        flags=array("I", map(_flags, txns)).tobytes(),
        last_at=array("d", [txn.last_at for txn in txns]).tobytes(),
        opened_at=array("d", [txn.opened_at for txn in txns]).tobytes(),
        due_at=array("d", [nan if txn.bucket is None else txn.due_at for txn in txns]).tobytes(),
        event_counts=array("I", map(len, lives)).tobytes(),
        signature_numbers=signatures.column(event.signature for event in events),
        signatures=list(signatures.numbers),
        place_numbers=array("I", [numbers[event.ref] for event in events]).tobytes(),
        offsets=array("q", [event.offset for event in events]).tobytes(),
        timestamps=array("d", [event.ts for event in events]).tobytes(),
        record_timestamps=array("d", [event.record_ts for event in events]).tobytes(),
        rest={i: rest for i, rest in rests.items() if rest is not PLAIN},
    )


def _flags(txn: Transaction) -> int:
    return sum(1 << i for i, name in enumerate(FLAGS) if getattr(txn, name))


def restore_transactions(chunks: Iterator[bytes], live: int, lingering: int, ledger: Ledger) -> None:
    """Fill a ledger whose head was restored with so many transactions; later chunks are left alone.

    Raises ValueError if the chunks hold other numbers of them, or one of them twice.
    """
    refs = list(ledger.partitions)
    decode = msgspec.msgpack.Decoder(Chunk).decode
    standings: dict[Standing, Standing] = {}
    while len(ledger.live) < live:
        chunk, before = decode(next(chunks)), len(ledger.live)
        _restore_live(ledger, chunk, refs, standings)
        _require_all_new(chunk, before, len(ledger.live))
    while len(ledger.archive.lingering) < lingering:
        chunk, before = decode(next(chunks)), len(ledger.archive.lingering)
        _restore_ended(ledger, chunk, refs)
        _require_all_new(chunk, before, len(ledger.archive.lingering))
    if (len(ledger.live), len(ledger.archive.lingering)) != (live, lingering):
        raise ValueError(f"{len(ledger.live)} of {live} live transactions")


def _require_all_new(chunk: Chunk, before: int, after: int) -> None:
    if after - before != len(chunk.txn_ids):
        raise ValueError("a transaction that stands twice")


def _lives(ledger: Ledger, chunk: Chunk, refs: list[PartitionRef]) -> Iterator[list[Event]]:
    """The events of each transaction of a chunk."""
    signatures = [ledger.intake.shared(signature) for signature in chunk.signatures]
    signature_numbers = numbers_of("I", chunk.signature_numbers)
    offsets = numbers_of("q", chunk.offsets)
    if min(offsets, default=0) < 0 or any(s.kind not in KINDS for s in signatures):
        raise ValueError("an event with an impossible offset or kind")
    events = list(
        map(
            Event,
            moments_of(chunk.timestamps),
            map(refs.__getitem__, numbers_of("I", chunk.place_numbers)),
            offsets,
            moments_of(chunk.record_timestamps),
            map(signatures.__getitem__, signature_numbers),
        )
    )
    counts = numbers_of("I", chunk.event_counts)
    ends = list(accumulate(counts))
    if not len(ends) == len(chunk.txn_ids) or (ends and ends[-1] != len(events)) or 0 in counts:
        raise ValueError("columns of different lengths")
    # Whether a close has its verdict or awaits one stands in a Rest, and only those are checked (check_transaction).
    closing = {i for i, signature in enumerate(signatures) if signature.kind == Kind.TRANSACTION_CLOSE}
    closes = (i for i, number in enumerate(signature_numbers) if number in closing) if closing else ()
    # As many transactions end at or before event `i` as come before its own.
    if any(bisect_right(ends, i) not in chunk.rest for i in closes):
        raise ValueError("a close in a transaction that is open")
    for start, end in zip([0, *ends], ends, strict=False):
        yield events[start:end]


def _transactions(ledger: Ledger, chunk: Chunk, refs: list[PartitionRef]) -> Iterator[tuple[Transaction, Rest]]:
    """The transactions of a chunk, without what connects them with others."""
    types = [intern(name) if name is not None else None for name in chunk.txn_types]
    # Few combinations occur: each is taken apart once, not once for each transaction.
    flags = {number: _flags_set(number) for number in set(numbers_of("I", chunk.flags))}
    rest = chunk.rest
    columns = zip(
        chunk.txn_ids,
        numbers_of("I", chunk.type_numbers),
        numbers_of("I", chunk.flags),
        moments_of(chunk.last_at),
        moments_or_never_of(chunk.opened_at),
        _lives(ledger, chunk, refs),
        strict=True,
    )
    for i, (txn_id, type_number, flag_bits, last_at, opened_at, events) in enumerate(columns):
        txn = Transaction(txn_id, late_retry=False)
        txn.txn_type = types[type_number]
        txn.events, txn.last_at, txn.opened_at = events, last_at, opened_at
        for name in flags[flag_bits]:
            setattr(txn, name, True)
        more = rest.get(i, PLAIN)
        if more is not PLAIN:
            _restore_verdicts(txn, more, refs)
        yield txn, more


def _flags_set(number: int) -> list[str]:
    return [name for i, name in enumerate(FLAGS) if number >> i & 1]


def _restore_verdicts(txn: Transaction, rest: Rest, refs: list[PartitionRef]) -> None:
    txn.state, txn.cause, txn.since, txn.causes = rest.state, rest.cause, rest.since, rest.causes
    txn.given_up_steps = rest.given_up_steps
    if rest.been_stuck:
        txn.been_stuck = {
            cause: BeenStuck(Wait(reference, wait_s), last_at)
            for cause, (reference, wait_s, last_at) in rest.been_stuck.items()
        }
    if rest.notes:
        txn.notes = {
            (refs[p], offset): Note(verdict, decided_at, sighted_at)
            for p, offset, verdict, decided_at, sighted_at in rest.notes
        }
    if rest.deciding is not None:
        record_ts, p, offset, decided_at = rest.deciding
        txn.deciding = (record_ts, refs[p], offset, decided_at)


def _restore_live(ledger: Ledger, chunk: Chunk, refs: list[PartitionRef], standings: dict[Standing, Standing]) -> None:
    live, wheel = ledger.live, ledger.watermark.wheel
    for (txn, rest), due_at in zip(_transactions(ledger, chunk, refs), due_ats_of(chunk.due_at), strict=True):
        live[txn.txn_id] = txn
        if not isnan(due_at):
            wheel(txn).set(txn, due_at)
        if rest is not PLAIN:
            _restore_waits(ledger, txn, rest, refs)
        standing = txn.place_in_gauges()
        if standing is not None:
            # Transactions that stand alike share it.
            txn.standing = standings.setdefault(standing, standing)


def _restore_waits(ledger: Ledger, txn: Transaction, rest: Rest, refs: list[PartitionRef]) -> None:
    """What the transaction waits for, and what waits for it."""
    for p, offset, record_ts, sighted_at, due_at in rest.closes:
        close = txn.await_verdict(refs[p], offset, record_ts, sighted_at)
        partition = ledger.partitions[refs[p]]
        partition.pending_closes.append(close)
        if due_at is not None:
            partition.close_deadlines.set(close, due_at)
    if txn.cause is not None:
        ledger.stuck_tracker.restore(txn)
    if rest.look_at:
        # Why it was to be evaluated (a message has just changed it, the validator was awaited, it was withheld), the
        # evaluation will tell, before anything settles. Its type may be another one by then, too.
        txn.retype = True
        ledger.agenda.add([txn])
    check_transaction(txn)
    if rest.ending is not None:
        ledger.settlement.restore(txn, Ending(*rest.ending), rest.final)


def _restore_ended(ledger: Ledger, chunk: Chunk, refs: list[PartitionRef]) -> None:
    for txn, rest in _transactions(ledger, chunk, refs):
        end = rest.end
        if end is None:
            raise ValueError("a transaction that lingers has no end")
        life = None
        if end.verdicts is not None:
            life = [Judged(e, *verdict) for e, verdict in zip(txn.events, end.verdicts, strict=True)]
        kpis = Kpis(end.duration_s, end.status, NO_FIGURES, NO_FIGURES, end.anomalies)
        ledger.archive.restore(
            Finished(txn, life, end.outcome, end.attempts, kpis, end.commit_delay_s, end.late_events, end.settled_at)
        )

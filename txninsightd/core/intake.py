"""Sightings become events of live transactions: the inner loop, paid for once for each event.

A sighting is appended to its transaction, begins a new one, is late (its transaction is finished), or is dropped to
stay within a limit. Only what can change a state makes its transaction dirty; a plain step of an open one does not.
"""

from bisect import bisect_left
from itertools import compress

from txninsightd.core.archive import Archive
from txninsightd.core.events import STEP_KINDS, Event
from txninsightd.core.eviction import Eviction
from txninsightd.core.facts import EventsLate, FactBuffer
from txninsightd.core.transaction import Transaction
from txninsightd.core.verdicts import PartitionState
from txninsightd.vocabulary import Kind, Sightings, Signature

MOST_SIGNATURES = 10_000
"""As many distinct signatures are kept at a time, so that events share them."""


Columns = tuple[list[int], list[str], list[int], list[float], list[float]]
"""Of sightings: offset, txn_id, index of the signature, ts, record timestamp."""


def _news(message: Sightings, applied: int) -> Columns:
    """The columns without what was applied before (a restarted reader may overlap)."""
    offsets, stamps = message.offsets, message.record_timestamps
    if not offsets or offsets[0] >= applied:
        return offsets, message.txn_ids, message.signature_indexes, message.timestamps, stamps
    i = bisect_left(offsets, applied)
    return offsets[i:], message.txn_ids[i:], message.signature_indexes[i:], message.timestamps[i:], stamps[i:]


def _without(dropped: set[int], columns: Columns) -> tuple[list[int], list[str]]:
    """Offsets and txn_ids without the dropped offsets."""
    offsets, txn_ids = columns[0], columns[1]
    if not dropped:
        return offsets, txn_ids
    kept = [offset not in dropped for offset in offsets]
    return list(compress(offsets, kept)), list(compress(txn_ids, kept))


class Intake:
    """`live`: the live transactions, to which new ones are added. `start_at`: the moment at which reading began."""

    def __init__(
        self,
        live: dict[str, Transaction],
        archive: Archive,
        eviction: Eviction,
        facts: FactBuffer,
        start_at: float,
    ) -> None:
        self.start_at = start_at
        self._live = live
        self._archive = archive
        self._eviction = eviction
        self._facts = facts
        self.signatures: dict[Signature, Signature] = {}
        self._compacting: set[PartitionState] = set()

    def shared(self, signature: Signature) -> Signature:
        """The one instance of equal signatures."""
        if len(self.signatures) >= MOST_SIGNATURES:
            self.signatures.clear()
        return self.signatures.setdefault(signature, signature)

    def take(self, partition: PartitionState, message: Sightings, dirty: dict[Transaction, None]) -> None:
        """Append what is new in a message. Transactions that must be evaluated are added to `dirty`."""
        columns = _news(message, partition.monitor_offset)
        kept = self._append(partition, columns, message, dirty)
        before = partition.undecided
        partition.sight(*kept, message.to_offset, message.read_at)
        self._compact(partition, brought=len(kept[0]))
        self._eviction.undecided += partition.undecided - before

    def tick(self) -> None:
        """Go on removing what finished transactions have left behind, also where nothing more is read."""
        for partition in list(self._compacting):
            before = partition.undecided
            self._compact(partition, brought=0)
            self._eviction.undecided += partition.undecided - before

    def _compact(self, partition: PartitionState, brought: int) -> None:
        partition.compact(self._live, self._eviction.is_crowded, brought)
        (self._compacting.add if partition.is_compacting else self._compacting.discard)(partition)

    def _append(
        self, partition: PartitionState, columns: Columns, message: Sightings, dirty: dict[Transaction, None]
    ) -> tuple[list[int], list[str]]:
        """The inner loop. Returns offsets and txn_ids of the sightings that await a verdict."""
        live, ref, start_at = self._live, partition.ref, self.start_at
        signatures = [self.shared(Signature(*s)) for s in message.signatures]
        plain = [s.kind in STEP_KINDS and not s.kept_time and not s.future for s in signatures]
        types = [s.txn_type for s in signatures]
        most = self._eviction.most_events_each
        late, lived = 0, len(live)
        dropped: set[int] = set()
        for offset, txn_id, index, ts, record_ts in zip(*columns, strict=True):
            txn = live.get(txn_id)
            if txn is None:
                txn = self._admit(txn_id, signatures[index])
                if txn is None:
                    late += 1
                    continue
            events = txn.events
            event = Event(ts, ref, offset, record_ts, signatures[index])
            if len(events) >= most and not self._eviction.keeps(txn, event, start_at):
                dropped.add(offset)
                if not txn.simple or txn.early or txn.replayed:
                    dirty[txn] = None
                continue
            events.append(event)
            moment = ts if ts > record_ts else record_ts
            if moment > txn.last_at:
                txn.last_at = moment
            if ts < start_at:
                # Not simple: only an evaluation reports that it is partial.
                txn.early = True
                txn.simple = False
            txn_type = types[index]
            if txn_type is not None and txn_type != txn.txn_type:
                if txn.txn_type is None:
                    txn.txn_type = txn_type
                else:
                    # The order of the events decides which type holds, not their arrival; `_evaluate` finds out.
                    txn.retype = True
                txn.simple = False
            if not (txn.simple and plain[index]):
                dirty[txn] = None
                if not plain[index]:
                    self._note_end(partition, txn, event, message.read_at)
        if late:
            self._facts.add(EventsLate(late))
        kept = _without(dropped, columns)
        # Late events are in the columns, and in no transaction.
        self._eviction.appended(len(kept[0]) - late, len(live) - lived)
        return kept

    def _admit(self, txn_id: str, signature: Signature) -> Transaction | None:
        """A new life; None when the event is late. A finished one is only opened again after an abort."""
        was_aborted = self._archive.was_aborted(txn_id)
        if was_aborted is not None and not (was_aborted and signature.kind == Kind.TRANSACTION_OPEN):
            return None
        txn = self._live[txn_id] = Transaction(txn_id, late_retry=was_aborted is not None)
        return txn

    def _note_end(self, partition: PartitionState, txn: Transaction, event: Event, sighted_at: float) -> None:
        """An open, a close, or a replayed or clamped event."""
        kind = event.signature.kind
        if event.signature.kept_time:
            txn.replayed = True
        if event.signature.future:
            txn.future = True
        if kind == Kind.TRANSACTION_OPEN:
            txn.sighted_open = True
            txn.opened_at = min(txn.opened_at, event.ts)
        elif kind == Kind.TRANSACTION_CLOSE:
            # Sightings come by ascending offset, so these stand in the order in which verdicts will come.
            partition.pending_closes.append(txn.await_verdict(event.ref, event.offset, event.record_ts, sighted_at))

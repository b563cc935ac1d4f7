"""Explains a transaction's state in one plain sentence for the on-call engineer.

The sentence names the deciding event (the close, or the last event) with topic, partition, offset and time. You can
look up that record with any Kafka tool. Each cause, state and outcome has one wording.
"""

from collections.abc import Callable
from typing import NamedTuple

from txninsightd.core.events import Event, Life, closes, event_order
from txninsightd.core.finished import Finished
from txninsightd.core.kpis import first_committed_close
from txninsightd.core.ledger import Ledger
from txninsightd.core.lifecycle import deciding_close, last_aborted_close, latest_abort
from txninsightd.core.transaction import Transaction
from txninsightd.expose.text_format import describe_event, format_time, position_of
from txninsightd.vocabulary import Cause, Kind, Outcome, State, Thresholds, Verdict


class Case(NamedTuple):
    """A live transaction to explain."""

    ledger: Ledger
    txn: Transaction
    life: Life

    @property
    def thresholds(self) -> Thresholds:
        return self.ledger.rules.thresholds(self.txn.txn_type)

    @property
    def since(self) -> str:
        return f"Stuck since {format_time(self.txn.since)}"


def why_live(ledger: Ledger, txn: Transaction, life: Life) -> str:
    """Why a live transaction is in its state."""
    case = Case(ledger, txn, life)
    sentence = BY_CAUSE[txn.cause](case) if txn.cause is not None else BY_STATE[txn.state](case)
    return f"{sentence}{_caveats(txn)}."


def why_settled(finished: Finished) -> str:
    """Why a settled transaction ended as it did."""
    settled = f"settled {format_time(finished.settled_at)}"
    return f"{BY_OUTCOME[finished.outcome](finished.life)}; {settled}{_caveats(finished.txn)}."


def _caveats(txn: Transaction) -> str:
    return f"{_dropped_steps(txn)}{_unseen_beginning(txn)}"


def _dropped_steps(txn: Transaction) -> str:
    return f"; {txn.given_up_steps} of its steps were not kept, to stay within a limit" if txn.given_up_steps else ""


def _unseen_beginning(txn: Transaction) -> str:
    if txn.replayed:
        return "; it was replayed with its original time, so it has no age and never becomes stuck"
    if txn.partial:
        return "; its beginning was not seen, so it has no duration and never becomes stuck"
    return ""


# --- Stuck ------------------------------------------------------------------------------------------------------------


def _idle(case: Case) -> str:
    after = f"for longer than idle_after_s ({case.thresholds.idle_after_s:g} s)"
    return f"{case.since}: no event came {after} since {describe_event(_last(case.life))}, and no close was seen"


def _overdue(case: Case) -> str:
    opened = _first_standing_open(case.life)
    since = f" since {describe_event(opened)}" if opened is not None else ""
    after = f"for longer than overdue_after_s ({case.thresholds.overdue_after_s:g} s)"
    return f"{case.since}: open {after}{since}; the last event is {describe_event(_last(case.life))}"


def _undecided(case: Case) -> str:
    close = _pending_close(case, at_frontier=False)
    return (
        f"{case.since}: {_written(close)}, but neither committed nor aborted, since a Kafka transaction that began "
        f"before it in this partition is still open and holds the last stable offset at {_frontier(case, close)}"
    )


def _commit_pending(case: Case) -> str:
    close = _pending_close(case, at_frontier=True)
    return (
        f"{case.since}: {_written(close)}, but not committed, and it lies at the last stable offset, so its own "
        f"producer's Kafka transaction is the one that is still open"
    )


def _never_committed(case: Case) -> str:
    return f"{case.since}: {_aborted_close(case)}, and no retry came; {_left_behind(case.life)}"


BY_CAUSE: dict[Cause, Callable[[Case], str]] = {
    Cause.IDLE: _idle,
    Cause.OVERDUE: _overdue,
    Cause.UNDECIDED: _undecided,
    Cause.COMMIT_PENDING: _commit_pending,
    Cause.NEVER_COMMITTED: _never_committed,
}

# --- Live and not stuck -----------------------------------------------------------------------------------------------


def _open(case: Case) -> str:
    return f"Open: no close stands; the last event is {describe_event(_last(case.life))}"


def _tentatively_closed(case: Case) -> str:
    close = _pending_close(case, at_frontier=False)
    return f"Tentatively closed: {_written(close)}, and is neither committed nor aborted yet"


def _closed(case: Case) -> str:
    return f"{_committed(case.life)}; it settles once none of its events can be unread"


def _aborted(case: Case) -> str:
    if not any(j.stands for j in case.life):
        last = describe_event(_last(case.life))
        return f"Aborted: none of its events was committed, the last is {last}; it settles unless it is retried"
    return f"Aborted: {_aborted_close(case)}, and no retry came so far; {_left_behind(case.life)}"


def _unknown(case: Case) -> str:
    return f"{_unseen(case.life)}; it settles as unknown"


BY_STATE: dict[State, Callable[[Case], str]] = {
    State.OPEN: _open,
    State.TENTATIVELY_CLOSED: _tentatively_closed,
    State.CLOSED: _closed,
    State.ABORTED: _aborted,
    State.UNKNOWN: _unknown,
}

# --- Settled ----------------------------------------------------------------------------------------------------------


def _committed(life: Life) -> str:
    close = first_committed_close(life)
    return "Closed" if close is None else f"Closed: its close at {position_of(close.event)} was committed"


def _all_aborted(life: Life) -> str:
    return f"Aborted: all its events were aborted, the last is {describe_event(_last(life))}"


def _unseen(life: Life) -> str:
    close = deciding_close(life)
    if close is not None:
        return f"Unknown: it could not be seen whether its close at {position_of(close.event)} was committed"
    last = describe_event(_last(life))
    return f"Unknown: no event of it is known to be committed, but not all could be read; the last is {last}"


def _evicted(life: Life) -> str:
    last = describe_event(_last(life))
    return f"Evicted: dropped to stay within the memory limits; its end is not known, the last event was {last}"


def _forgotten(life: Life) -> str:
    return f"Forgotten: ended by the operator; the last event was {describe_event(_last(life))}"


BY_OUTCOME: dict[Outcome, Callable[[Life], str]] = {
    Outcome.CLOSED: _committed,
    Outcome.ABORTED: _all_aborted,
    Outcome.UNKNOWN: _unseen,
    Outcome.EVICTED: _evicted,
    Outcome.FORGOTTEN: _forgotten,
}

# --- Parts ------------------------------------------------------------------------------------------------------------


def _last(life: Life) -> Event:
    # Idleness counts from the later of both timestamps.
    return max((j.event for j in life), key=lambda e: (max(e.ts, e.record_ts), e.ref, e.offset))


def _first_standing_open(life: Life) -> Event | None:
    opens = [j.event for j in life if j.kind == Kind.TRANSACTION_OPEN and j.stands]
    return min(opens, key=event_order, default=None)


def _pending_close(case: Case, at_frontier: bool) -> Event:
    """The pending close that has waited longest, preferably one that lies (or does not lie) at the frontier."""
    pending = [j.event for j in closes(case.life, Verdict.PENDING)]
    # False sorts before True: closes at the wanted place first, then the earliest.
    return min(pending, key=lambda e: ((e.offset == _frontier(case, e)) != at_frontier, e.record_ts))


def _frontier(case: Case, event: Event) -> int:
    return case.ledger.partitions[event.ref].validator_offset


def _written(close: Event) -> str:
    return f"its close at {position_of(close)} was written {format_time(close.record_ts)}"


def _aborted_close(case: Case) -> str:
    close = last_aborted_close(case.life)
    found = f"(found {format_time(latest_abort(case.life))})"
    aborted = f"its close at {position_of(close.event)}" if close is not None else "it"
    return f"{aborted} was aborted {found}"


def _left_behind(life: Life) -> str:
    standing = [j for j in life if j.stands]
    return f"{len(standing)} of its {len(life)} events stand, the last is {describe_event(_last(standing))}"

"""The query of a listing: its parameters, its filter, and the first `limit` matches.

A listing scans all live and lingering transactions and yields to the event loop every few thousand. It keeps a heap of
at most `limit` entries, so it never sorts all transactions. Order: newest stuck first when the query asks only for
stuck ones, else latest activity first.
"""

from heapq import heappush, heapreplace
from typing import NamedTuple

from multidict import MultiMapping

from txninsightd.core.finished import Finished
from txninsightd.core.labels import UNNAMED
from txninsightd.core.ledger import Ledger
from txninsightd.expose.loop_yield import LoopYield
from txninsightd.expose.summaries import Entry
from txninsightd.visible_text import visible
from txninsightd.vocabulary import Cause, State

STUCK = "stuck"
STATES = (*(state.value for state in State), STUCK)
CAUSES = tuple(cause.value for cause in Cause)
DEFAULT_LIMIT = 100
MOST_LISTED = 10_000
SCANNED_AT_ONCE = 2000


Ranked = tuple[float, int, Entry]
"""An entry with its rank (greater comes first) and a tie-breaker (the younger comes first)."""


class BadParameter(ValueError):
    """A query parameter cannot be used; the message says what is allowed."""


class Query(NamedTuple):
    """A listing's filters; None means any value."""

    state: str | None = None
    cause: str | None = None
    txn_type: str | None = None
    limit: int = DEFAULT_LIMIT

    @property
    def only_stuck(self) -> bool:
        return self.state == STUCK or self.cause is not None

    def wants(self, entry: Entry) -> bool:
        """Whether an entry matches."""
        if isinstance(entry, Finished):
            state, cause, txn_type = entry.outcome.value, None, entry.txn.txn_type
        else:
            state, cause, txn_type = entry.state.value, entry.cause, entry.txn_type
        # A settled transaction is never stuck, even if it was stuck earlier.
        if self.only_stuck and cause is None:
            return False
        return (
            self.state in (None, STUCK, state)
            and self.cause in (None, cause)
            and (self.txn_type is None or self._is_of_type(txn_type or UNNAMED))
        )

    def _is_of_type(self, txn_type: str) -> bool:
        """Whether the filter is this type, or its label, in which control characters are escapes."""
        return self.txn_type in (txn_type, visible(txn_type))


class Selection(NamedTuple):
    """The first matching entries, in order, and the total number of matches."""

    entries: list[Entry]
    matched: int


# --- The query --------------------------------------------------------------------------------------------------------


def parse_query(parameters: MultiMapping[str]) -> Query:
    """Parse a listing's parameters; raises BadParameter."""
    for name in parameters:
        if name not in Query._fields:
            raise BadParameter(f"there is no parameter '{name}'; the parameters are {', '.join(Query._fields)}")
        if len(parameters.getall(name)) > 1:
            raise BadParameter(f"'{name}' is given more than once")
    return Query(
        _one_of("state", STATES, parameters.get("state")),
        _one_of("cause", CAUSES, parameters.get("cause")),
        parameters.get("txn_type"),
        _limit(parameters.get("limit", str(DEFAULT_LIMIT))),
    )


def _one_of(name: str, allowed: tuple[str, ...], value: str | None) -> str | None:
    if value is not None and value not in allowed:
        raise BadParameter(f"'{name}' must be one of {', '.join(allowed)}; not '{value}'")
    return value


def _limit(value: str) -> int:
    # isdigit and int also accept digits of other scripts.
    if not (value.isascii() and value.isdigit() and len(value) <= 9 and 1 <= int(value) <= MOST_LISTED):
        raise BadParameter(f"'limit' must be a whole number from 1 to {MOST_LISTED}; not '{value}'")
    return int(value)


# --- The choice -------------------------------------------------------------------------------------------------------


async def select(ledger: Ledger, query: Query) -> Selection:
    """The entries that match now."""
    candidates = _candidates(ledger, query)
    rank = _since if query.only_stuck else _activity
    best: list[Ranked] = []
    matched = 0
    loop_yield = LoopYield()
    while candidates:
        for entry in reversed(candidates[-SCANNED_AT_ONCE:]):
            if query.wants(entry):
                matched += 1
                # -matched is unique, so the heap never compares entries. It also ranks the younger of two equals first.
                _keep_best(best, (rank(entry), -matched, entry), query.limit)
        # Deleting at the end moves no other item.
        del candidates[-SCANNED_AT_ONCE:]
        await loop_yield.yield_if_due()
    return Selection([entry for _, _, entry in sorted(best, reverse=True)], matched)


def _candidates(ledger: Ledger, query: Query) -> list[Entry]:
    """A snapshot, the youngest last. The scan begins with the youngest, so most entries that enter the heap stay."""
    if query.only_stuck:
        return list(ledger.stuck.values())
    candidates: list[Entry] = list(ledger.archive.lingering.values())
    candidates.extend(ledger.live.values())
    return candidates


def _keep_best(best: list[Ranked], ranked: Ranked, limit: int) -> None:
    if len(best) < limit:
        heappush(best, ranked)
    # Of equal ranks the one in the heap stays: it is the younger.
    elif ranked[0] > best[0][0]:
        heapreplace(best, ranked)


def _since(entry: Entry) -> float:
    return (entry.txn if isinstance(entry, Finished) else entry).since


def _activity(entry: Entry) -> float:
    return (entry.txn if isinstance(entry, Finished) else entry).last_at

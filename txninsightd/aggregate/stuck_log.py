"""The sink that logs which transactions became stuck, changed their cause, or are no longer stuck."""

from collections.abc import Sequence

import structlog

from txninsightd.core.facts import Fact, StuckChanged
from txninsightd.core.sinks import Sink

# One message can bring thousands: the end of an outage, a partition that catches up.
MOST_LOGGED_A_ROUND = 20

log = structlog.get_logger()


class StuckLog(Sink):
    """Logs a bounded number of changes a round of messages, and how many more there were."""

    def __init__(self) -> None:
        self._in_round = 0

    def take(self, facts: Sequence[Fact], now: float) -> None:
        """Log what changed, up to the bound."""
        for fact in facts:
            if isinstance(fact, StuckChanged):
                self._in_round += 1
                if self._in_round <= MOST_LOGGED_A_ROUND:
                    _log(fact)

    def end_round(self) -> None:
        """Say how many were left out."""
        if self._in_round > MOST_LOGGED_A_ROUND:
            log.warning("more_stuck_changes", count=self._in_round - MOST_LOGGED_A_ROUND)
        self._in_round = 0


def _log(change: StuckChanged) -> None:
    txn = {"txn_id": change.txn_id, "txn_type": change.txn_type}
    if change.cause is None:
        log.info("transaction_not_stuck", **txn, was=str(change.before))
    else:
        log.warning("transaction_stuck", **txn, cause=change.cause.value, since=change.since)

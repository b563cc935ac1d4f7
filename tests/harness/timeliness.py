"""What the broker's log says of time: which transactions were really slow, and what a daemon could not have read yet.

A machine may be so busy, or a broker away for so long, that a producer falls silent for longer than a threshold. Then
to be called stuck is no false alarm; the log shows it. And when a daemon says that it has seen all up to a moment, no
record that lies beyond its position may be older. That is exact where the broker stamps the records (LogAppendTime).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from tests.harness.oracle import Log, log_entries
from txninsightd.vocabulary import PartitionRef, Verdict

MARGIN = 0.8
CLOCK_STEP_S = 0.002


class Outage(NamedTuple):
    """The broker could not be reached from then to then; epoch seconds."""

    began: float
    ended: float


class Patience(NamedTuple):
    """The thresholds that a daemon is given."""

    idle_after_s: float
    overdue_after_s: float
    commit_pending_after_s: float
    retry_grace_s: float

    def sections(self) -> dict[str, Any]:
        """As the daemon's config has them."""
        stuck = self._asdict()
        return {"state": {"retry_grace_s": stuck.pop("retry_grace_s")}, "stuck": stuck}

    def slow(self, logs: Iterable[Log], outages: Iterable[Outage]) -> set[str]:
        """The transactions that came close to a threshold, by the log; outages and the grace after them are excused."""
        logs, outages = list(logs), list(outages)
        waits = [*self._silences(logs), *self._waits_for_commit(logs)]
        return {txn_id for txn_id, began, ended, most_s in waits if self._too_long(began, ended, most_s, outages)}

    def _silences(self, logs: list[Log]) -> Iterator[tuple[str, float, float, float]]:
        """Between any two events of a transaction, and from its first to its last: txn_id, from, to, threshold."""
        stamps: dict[str, list[float]] = defaultdict(list)
        for entry in log_entries(logs).values():
            stamps[entry.txn_id].append(entry.record_ts)
        for txn_id, times in stamps.items():
            times.sort()
            yield txn_id, times[0], times[-1], self.overdue_after_s
            for before, after in pairwise(times):
                yield txn_id, before, after, self.idle_after_s

    def _waits_for_commit(self, logs: list[Log]) -> Iterator[tuple[str, float, float, float]]:
        """From each close until its verdict could be seen."""
        for log in logs:
            for record_id, entry in log.entries().items():
                if entry.kind == "transaction_close":
                    yield entry.txn_id, entry.record_ts, log.decided_at(record_id.offset), self.commit_pending_after_s

    def _too_long(self, began: float, ended: float, most_s: float, outages: list[Outage]) -> bool:
        """Whether a wait was too long, not counting outages and what a producer needs to recover from one."""
        touched = [o for o in outages if began < o.ended + self.retry_grace_s and o.began < ended]
        excused_s = sum(max(0.0, min(ended, o.ended) - max(began, o.began)) for o in touched)
        if ended - began - excused_s <= most_s * MARGIN:
            return False
        return all(ended > o.ended + self.retry_grace_s * MARGIN for o in touched)


def false_sights(
    partitions: Iterable[Mapping[str, Any]], logs: Iterable[Log], allowed_s: float = CLOCK_STEP_S
) -> list[str]:
    """In words, each `as_of` of the API's partitions before which something was there that it had not read.

    `allowed_s`: for so long a record may be there before a consumer can read it.
    """
    unread = {log.ref: Unread(log) for log in logs}
    found = []
    for said in partitions:
        of = unread.get(PartitionRef(said["topic"], said["partition"]))
        for view in ("monitor", "validator"):
            as_of, offset = said[f"{view}_as_of"], said[f"{view}_offset"]
            since = of.since(view, offset) if of is not None else float("inf")
            if as_of is not None and as_of > since + allowed_s:
                found.append(f"{said['topic']}/{said['partition']}: {view} at {offset} with as_of {as_of} > {since}")
    return found


class Unread:
    """From when on there was something in a partition that a view at an offset has not read."""

    def __init__(self, log: Log) -> None:
        entries = {record_id.offset: entry for record_id, entry in log.entries().items()}
        self._there = {offset: entry.record_ts for offset, entry in entries.items()}
        self._decided = {
            offset: max(entry.record_ts, log.decided_at(offset))
            for offset, entry in entries.items()
            if entry.verdict is not Verdict.PENDING
        }

    def since(self, view: str, offset: int) -> float:
        """The monitor reads what is there, the validator what is decided."""
        moments = self._there if view == "monitor" else self._decided
        return min((moment for of, moment in moments.items() if of >= offset), default=float("inf"))

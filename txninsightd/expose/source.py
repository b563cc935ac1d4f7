"""What `expose/` needs from the daemon: the ledger and a few facts about the processes.

Only an operator command (`forget`) changes anything. All reads happen on the aggregator's event loop, so values that
are read without an `await` between them belong to the same moment.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from txninsightd.core.figures import Figures
from txninsightd.core.ledger import Ledger
from txninsightd.vocabulary import CheckpointHealth, ChildStatus, Reloads


class Source(Protocol):
    """The daemon as the metrics and the API see it. Times are seconds since the epoch."""

    @property
    def ledger(self) -> Ledger:
        """All business transactions."""

    @property
    def figures(self) -> Figures:
        """The figures about them."""

    @property
    def started_at(self) -> float:
        """When the aggregator started."""

    @property
    def multiproc_dir(self) -> Path | None:
        """Where the readers write their own metrics (worker_health.py); None: they write none."""

    @property
    def checkpoints(self) -> CheckpointHealth:
        """The health of the checkpoints."""

    @property
    def reloads(self) -> Reloads:
        """The results of config reloads, as the parent reports them."""

    @property
    def clock_steps(self) -> int:
        """How often the wall clock was stepped while the aggregator ran."""

    def forget(self, txn_id: str) -> bool:
        """End a live transaction; returns whether there was one."""

    async def durable(self) -> None:
        """Wait until a checkpoint holds the present state. Raises OSError when it cannot be written."""

    def now(self) -> float:
        """The daemon's clock."""

    def warming_up(self) -> bool:
        """Whether a view has yet to catch up on a partition since the aggregator started."""

    def missing(self) -> list[str]:
        """Why the daemon is not ready, in words; empty when it is ready."""

    def notes(self) -> list[str]:
        """What an operator should know although the daemon may be ready, in words."""

    def dropped_log_lines(self) -> Mapping[str, int]:
        """How many lines of the log each process has dropped since the daemon's start."""

    def children(self) -> list[ChildStatus]:
        """The child processes, as the parent reports them."""

    def heartbeat_ages_s(self) -> Mapping[str, float]:
        """Seconds since each started child's last heartbeat, or since its start if it has sent none yet."""
